"""What the LoRA layer is verified by: forward and backward against autograd of the formula."""

import torch
from torch import Tensor

from trivet.kernels.ops import kernel
from trivet.kernels.ops.lora import formula
from trivet.kernels.ops.lora.launch import (
    DX,
    FORWARD,
    WEIGHTS,
    launch_backward,
    launch_forward,
)
from trivet.kernels.ops.philox import uniform
from trivet.kernels.ops.weight import Weight
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """x is a slice of wider rows, so that strides count; A and B are float32, as in PEFT."""
    M, N, K, R = (dims[name] for name in "MNKR")
    draw = torch.Generator().manual_seed(seed)
    device = kernel.device()

    def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=draw).to(of).to(device)

    x, w, dy = normal(M, K + 8)[:, :K], normal(N, K) / K**0.5, normal(M, N)
    a, b = normal(R, K, of=torch.float32) / K**0.5, normal(N, R, of=torch.float32)
    bias = normal(N) if dims["bias"] else None
    gain = normal(N, of=torch.float32).abs() + 0.5 if dims["gain"] else None
    p, scale = (0.25 if dims["dropout"] else 0.0), 1.5
    mask = (uniform(seed, M * K).view(M, K) >= p).to(device) / (1 - p) if p else None

    def ours() -> Tensors:
        y, h = launch_forward(x, Weight.of(w), bias, a, b, gain, scale, p, seed)
        y_saved = None if gain is None else y
        grads = launch_backward(dy, x, Weight.of(w), bias, a, b, gain, h, y_saved, scale, p, seed)
        return (y, *grads) if gain is not None else (y, *grads[:3])

    def by_autograd(of: torch.dtype) -> Tensors:
        leaves = [t.to(of).requires_grad_() for t in (x, a, b, *([] if gain is None else [gain]))]
        xs, as_, bs, *gs = leaves
        y = formula.lora(
            xs, w.to(of), None if bias is None else bias.to(of), as_, bs,
            gs[0] if gs else None, scale, None if mask is None else mask.to(of),
        )  # fmt: skip
        return (y.detach(), *torch.autograd.grad(y, leaves, dy.to(of)))

    return Case(ours, lambda: by_autograd(dtype), lambda: by_autograd(torch.float64))


OPS = [Op(
    "lora_linear",
    (*(k["dense", large] for k in (FORWARD, DX) for large in (True, False)), WEIGHTS),
    case,
    dims={"M": (1, 5, 33, 64, 70), "N": (1, 31, 64, 97), "K": (1, 17, 64, 100),
          "R": (4, 16, 40, 80), "bias": (0, 1), "gain": (0, 1), "dropout": (0, 1)},
    launches=3,
)]  # fmt: skip
