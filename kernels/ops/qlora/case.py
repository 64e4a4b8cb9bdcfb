"""What QLoRA's fused kernels are verified by: the LoRA layer on the dequantised weight."""

from functools import partial

import torch
from torch import Tensor

from trivet.kernels.ops import int4, kernel, nf4
from trivet.kernels.ops.lora import formula
from trivet.kernels.ops.lora.launch import (
    DX,
    FORWARD,
    WEIGHTS,
    launch_backward,
    launch_forward,
)
from trivet.kernels.ops.weight import Weight
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def case(format: str, dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    M, N, K, R = (dims[name] for name in "MNKR")
    draw = torch.Generator().manual_seed(seed)
    device = kernel.device()

    def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=draw).to(of).to(device)

    x, dy = normal(M, K), normal(M, N)
    a, b = normal(R, K, of=torch.float32) / K**0.5, normal(N, R, of=torch.float32)
    full = normal(N, K, of=torch.float32) / K**0.5
    state = nf4.quantise(full) if format == "nf4" else int4.quantise(full, symmetric=False)
    w = Weight.of(state)

    def ours() -> Tensors:
        y, h = launch_forward(x, w, None, a, b, None, 1.5, 0.0, 0)
        grads = launch_backward(dy, x, w, None, a, b, None, h, None, 1.5, 0.0, 0)
        return (y, *grads[:3])

    def plain(of: torch.dtype) -> Tensors:
        xs, as_, bs = (t.to(of).requires_grad_() for t in (x, a, b))
        dense = state.dequantise(torch.float32).to(dtype).to(of)
        y = formula.lora(xs, dense, None, as_, bs, None, 1.5, None)
        return (y.detach(), *torch.autograd.grad(y, (xs, as_, bs), dy.to(of)))

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


_K = {"nf4": (64, 128, 192), "int4": (17, 64, 100)}  # NF4 tiles want whole blocks in a row
OPS = [
    Op(
        f"qlora_linear {format}",
        (*(k[format, large] for k in (FORWARD, DX) for large in (True, False)), WEIGHTS),
        partial(case, format),
        dims={"M": (1, 33), "N": (31, 64, 97), "K": _K[format], "R": (4, 40)},
        launches=3,
    )
    for format in ("nf4", "int4")
]
