"""The LoRA layer's operators, their gradients, and `lora_linear`, which checks before it launches.

formula.py has what is computed, and what is not covered.
"""

import torch
from torch import Tensor

from trivet.kernels.ops import kernel
from trivet.kernels.ops.int4 import Int4
from trivet.kernels.ops.lora.cpu import cpu_backward, cpu_forward
from trivet.kernels.ops.lora.launch import launch_backward, launch_forward
from trivet.kernels.ops.lora.split import settle
from trivet.kernels.ops.nf4 import NF4
from trivet.kernels.ops.weight import Weight

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@torch.library.custom_op("trivet::lora_linear", mutates_args=(), device_types="cpu")
def lora_op(
    x: Tensor, w: Tensor, state: list[Tensor], format: str, block: int, bias: Tensor | None,
    a: Tensor, b: Tensor, gain: Tensor | None, scale: float, dropout: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y [M, N] and h [M, R] of x [M, K]."""
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return cpu_forward(x, weight, bias, a, b, gain, scale, dropout, seed)


@lora_op.register_kernel("cuda")
def _(x, w, state, format, block, bias, a, b, *rest):
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return launch_forward(x, settle(weight, x), bias, a, b, *rest)


@lora_op.register_fake
def _(x, w, state, format, block, bias, a, b, *rest):
    return x.new_empty(x.shape[0], b.shape[0]), x.new_empty(x.shape[0], a.shape[0])


@torch.library.custom_op("trivet::lora_linear_backward", mutates_args=(), device_types="cpu")
def lora_backward_op(
    dy: Tensor, x: Tensor, w: Tensor, state: list[Tensor], format: str, block: int,
    bias: Tensor | None, a: Tensor, b: Tensor, gain: Tensor | None, h: Tensor, y: Tensor | None,
    scale: float, dropout: float, seed: int, needs_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, dA, dB, dg."""
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return cpu_backward(dy, x, weight, bias, a, b, gain, h, y, scale, dropout, seed, needs_dx)


@lora_backward_op.register_kernel("cuda")
def _(dy, x, w, state, format, block, bias, a, b, *rest):
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return launch_backward(dy, x, settle(weight, x), bias, a, b, *rest)


@lora_backward_op.register_fake
def _(dy, x, w, state, format, block, bias, a, b, gain, h, y, scale, dropout, seed, needs_dx):
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dgain = x.new_empty(0) if gain is None else torch.empty_like(gain)
    return dx if needs_dx else x.new_empty(0), torch.empty_like(a), torch.empty_like(b), dgain


def _setup(ctx, inputs, output):
    x, w, state, ctx.format, ctx.block, bias, a, b, gain, *ctx.numbers = inputs
    y, h = output
    ctx.mark_non_differentiable(h)
    ctx.save_for_backward(x, w, bias, a, b, gain, h, None if gain is None else y, *state)


def _backward(ctx, dy, _):
    x, w, bias, a, b, gain, h, y, *state = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx, da, db, dgain = lora_backward_op(
        dy.contiguous(), x, w, state, ctx.format, ctx.block, bias, a, b, gain, h, y,
        *ctx.numbers, needs[0],
    )  # fmt: skip
    dbias = dy.sum(0).to(bias.dtype) if bias is not None and needs[5] else None
    none = [None] * len(state)
    return (
        dx if needs[0] else None, None, none, None, None, dbias,
        da, db, None if gain is None else dgain, None, None, None,
    )  # fmt: skip


lora_op.register_autograd(_backward, setup_context=_setup)


def lora_linear(
    x: Tensor,
    weight: Tensor | NF4 | Int4 | Weight,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
    gain: Tensor | None = None,
) -> Tensor:
    """g ∘ (x Wᵀ + s·dropout(x) Aᵀ Bᵀ) + bias, differentiable in x, A, B, g and bias.

    x [..., K] float32, float16 or bfloat16 (float64 on the CPU); weight [N, K] frozen, a [R, K],
    b [N, R], bias [N], gain [N]. Under autocast x is cast as for torch's own linear layers. `seed`
    fixes the dropout mask. Raises ValueError before any launch when shapes, dtypes, devices or
    strides do not fit.
    """
    w = Weight.of(weight)
    x = kernel.autocast(x)
    if w.format == "dense" and w.data.dtype != x.dtype:
        w = Weight.of(w.data.to(x.dtype))
    _check(x, w, bias, a, b, gain, dropout)
    flat = x.reshape(-1, x.shape[-1])
    with kernel.without_autocast(x):
        y, _ = lora_op(
            flat, w.data, w.state, w.format, w.block, bias, a, b, gain, scale, dropout, seed
        )
    return y.view(*x.shape[:-1], b.shape[0])


def _check(
    x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor, gain: Tensor | None, p: float
) -> None:
    K, (N, R) = x.shape[-1], b.shape
    if not 1 <= R <= 256:
        raise ValueError(f"the rank of a {tuple(a.shape)} is {R}: give one from 1 to 256")
    shapes = {"a": (a, (R, K)), "bias": (bias, (N,)), "gain": (gain, (N,))}
    if w.format == "dense":
        shapes["weight"] = (w.data, (N, K))
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but x {tuple(x.shape)} and b "
                f"{tuple(b.shape)} ask for {shape}"
            )
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}: cast it to float32, float16 or bfloat16")
    tensors = {"x": x, "weight": w.data, "a": a, "b": b, "bias": bias, "gain": gain}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}: move it there")
        if tensor.numel() and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name} has stride {tensor.stride(-1)} along its last dimension: "
                "make it contiguous"
            )
    if not (a.is_contiguous() and b.is_contiguous()):
        raise ValueError("a and b must be contiguous: call .contiguous() on them")
    if w.data.requires_grad:
        raise ValueError("weight asks for a gradient: freeze it, this layer trains a and b alone")
    if not 0 <= p < 1:
        raise ValueError(f"dropout = {p}: give a share from 0 to below 1")
    if p and x.numel() >= 2**31:
        raise ValueError(f"x has {x.numel()} elements, dropout counts to 2^31: give fewer rows")
