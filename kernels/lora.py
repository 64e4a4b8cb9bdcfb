"""The linear layer of LoRA, forward and backward (Hu et al. 2021, arXiv 2106.09685, equation 3).

    h  = (x ∘ mask / (1 − p)) Aᵀ                x [M, K], A [R, K], h [M, R]
    y  = g ∘ (x Wᵀ + s·h Bᵀ) + bias             W [N, K] frozen, B [N, R], g [N] (DoRA) or absent
    dz = g ∘ dy            t  = dz B            t [M, R]
    dx = dz W + s/(1 − p)·mask ∘ (t A)
    dA = s·tᵀ (x ∘ mask / (1 − p))    dB = s·dzᵀ h    dg = Σₘ dy ∘ (y − bias) / g

Forward is one launch: the tile that multiplies by W also makes its rows of h, which costs R/BLOCK_N
more arithmetic and spares h's way through memory between two GEMMs. Backward is two: dx (which
leaves t behind), then dA and dB. Nothing is added atomically and each sum has one order, so repeats
are bit-equal. The dropout mask is a function of (seed, row, column), drawn anew in each kernel and
never stored. W may be quantised (qlora.py); weight.py reads it.

Saved for backward: x and h, and y when there is a g. On the CPU plain torch does the same sums; its
mask comes from torch's own generator, so it differs from a GPU's for the same seed.

Not covered: a trainable W (dW), ranks above 256, more than 2³¹ elements in x with dropout.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from . import reference, spec
from .cpu import working
from .lora_launch import DX, FORWARD, WEIGHTS, launch_backward, launch_forward
from .roofline import settle
from .spec import Case, Dims, Op, Tensors
from .weight import NF4, Int4, Weight

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def cpu_forward(
    x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor, gain: Tensor | None,
    scale: float, dropout: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `launch_forward`, in plain torch."""
    work = working(x.dtype)
    wide = x.to(work)
    h = F.linear(_dropped(wide, dropout, seed), a.to(work))
    y = F.linear(wide, w.dense(work), None if bias is None or gain is not None else bias.to(work))
    y.addmm_(h, b.to(work).t(), alpha=scale)
    if gain is not None:
        y.mul_(gain.to(work))
        if bias is not None:
            y.add_(bias)
    return y.to(x.dtype), h.to(x.dtype)


def cpu_backward(
    dy: Tensor, x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor,
    gain: Tensor | None, h: Tensor, y: Tensor | None,
    scale: float, dropout: float, seed: int, needs_dx: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `launch_backward`, in plain torch; without `needs_dx` its dx is empty."""
    work = working(x.dtype)
    dz, dgain = dy.to(work), x.new_empty(0)
    if gain is not None:
        z = cast(Tensor, y).to(gain.dtype)
        if bias is not None:
            z = z - bias
        dgain = (dz * z).sum(0).div_(gain).to(gain.dtype)
        dz = dz * gain.to(work)
    a_, b_ = a.to(work), b.to(work)
    t = dz @ b_
    da = torch.mm(t.t(), _dropped(x.to(work), dropout, seed)).mul_(scale).to(a.dtype)
    db = torch.mm(dz.t(), h.to(work)).mul_(scale).to(b.dtype)
    if not needs_dx:
        return x.new_empty(0), da, db, dgain
    dx = dz @ w.dense(work)
    if dropout:
        dx += _dropped(t @ a_, dropout, seed).mul_(scale)
    else:
        dx.addmm_(t, a_, alpha=scale)
    return dx.to(x.dtype), da, db, dgain


def _dropped(x: Tensor, p: float, seed: int) -> Tensor:
    """x ∘ mask / (1 − p), the mask a function of the seed alone."""
    if not p:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    return x * torch.empty_like(x).bernoulli_(1 - p, generator=generator).div_(1 - p)


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
    x = spec.autocast(x)
    if w.format == "dense" and w.data.dtype != x.dtype:
        w = Weight.of(w.data.to(x.dtype))
    _check(x, w, bias, a, b, gain, dropout)
    flat = x.reshape(-1, x.shape[-1])
    with spec.without_autocast(x):
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
    expected = {"a": (a, (R, K)), "bias": (bias, (N,)), "gain": (gain, (N,))}
    if w.format == "dense":
        expected["weight"] = (w.data, (N, K))
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but x {tuple(x.shape)} and b "
                f"{tuple(b.shape)} ask for {shape}"
            )
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}: cast it to float32, float16 or bfloat16")
    given = {"x": x, "weight": w.data, "a": a, "b": b, "bias": bias, "gain": gain}
    tensors = {name: t for name, t in given.items() if t is not None}
    for name, tensor in tensors.items():
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


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """x is a slice of wider rows, so that strides count; A and B are float32, as in PEFT."""
    M, N, K, R = (dims[name] for name in "MNKR")
    draw = torch.Generator().manual_seed(seed)
    device = spec.device()

    def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=draw).to(of).to(device)

    x, w, dy = normal(M, K + 8)[:, :K], normal(N, K) / K**0.5, normal(M, N)
    a, b = normal(R, K, of=torch.float32) / K**0.5, normal(N, R, of=torch.float32)
    bias = normal(N) if dims["bias"] else None
    gain = normal(N, of=torch.float32).abs() + 0.5 if dims["gain"] else None
    p, scale = (0.25 if dims["dropout"] else 0.0), 1.5
    mask = (reference.uniform(seed, M * K).view(M, K) >= p).to(device) / (1 - p) if p else None

    def ours() -> Tensors:
        y, h = launch_forward(x, Weight.of(w), bias, a, b, gain, scale, p, seed)
        kept_y = y if gain is not None else None
        grads = launch_backward(dy, x, Weight.of(w), bias, a, b, gain, h, kept_y, scale, p, seed)
        return (y, *grads) if gain is not None else (y, *grads[:3])

    def by_autograd(of: torch.dtype) -> Tensors:
        leaves = [t.to(of).requires_grad_() for t in (x, a, b, *([] if gain is None else [gain]))]
        xs, as_, bs, *gs = leaves
        y = reference.lora(
            xs, w.to(of), None if bias is None else bias.to(of), as_, bs,
            gs[0] if gs else None, scale, None if mask is None else mask.to(of),
        )  # fmt: skip
        return (y.detach(), *torch.autograd.grad(y, leaves, dy.to(of)))

    return Case(ours, lambda: by_autograd(dtype), lambda: by_autograd(torch.float64))


OP = Op(
    "lora_linear",
    (*(k["dense", large] for k in (FORWARD, DX) for large in (True, False)), WEIGHTS),
    case,
    dims={"M": (1, 5, 33, 64, 70), "N": (1, 31, 64, 97), "K": (1, 17, 64, 100),
          "R": (4, 16, 40, 80), "bias": (0, 1), "gain": (0, 1), "dropout": (0, 1)},
    launches=3,
)  # fmt: skip
