"""What RMS normalisation is verified by: transformers' arithmetic, and its autograd in float64."""

import torch

from trivet.kernels.ops import kernel
from trivet.kernels.ops.norm.formula import eager
from trivet.kernels.ops.norm.triton import (
    BACKWARD,
    FORWARD,
    WEIGHT,
    launch_backward,
    launch_forward,
)
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def _case(add: bool, offset: float, dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    random = torch.Generator().manual_seed(seed)
    shape = (dims["rows"], dims["D"])
    x, residual, dy, ds_out = (
        torch.randn(shape, generator=random).to(kernel.device(), dtype) for _ in range(4)
    )
    weight = (torch.rand(shape[1], generator=random) + 0.5 - offset).to(kernel.device(), dtype)

    def ours() -> Tensors:
        y, s_out, rstd = launch_forward(x, residual if add else None, weight, 1e-5, offset)
        s, more = (s_out, ds_out) if add else (x, None)
        dx, dweight = launch_backward(dy, more, s, weight, rstd, offset, True)
        return (y, s_out, dx, dweight) if add else (y, dx, dweight)

    def plain(dtype: torch.dtype) -> Tensors:
        a, w = (t.to(dtype, copy=True).requires_grad_() for t in (x, weight))
        out = eager(a, w, residual.to(dtype) if add else None, offset)
        grads = torch.autograd.grad(
            out, (a, w), tuple(g.to(dtype) for g in (dy, ds_out)[: len(out)])
        )
        return *(t.detach() for t in out), *grads

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """Llama's: y, dx and dweight."""
    return _case(False, 0.0, dims, dtype, seed)


def add_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """Gemma's with a residual: y, the sum, dx and dweight."""
    return _case(True, 1.0, dims, dtype, seed)


_DIMS = {"rows": (1, 7, 33, 70), "D": (31, 64, 100, 256, 300)}
_KERNELS = (FORWARD, BACKWARD, WEIGHT)
OPS = [
    Op("rms_norm", _KERNELS, case, _DIMS, launches=3),
    Op("add_rms_norm", _KERNELS, add_case, _DIMS, launches=3),
]
