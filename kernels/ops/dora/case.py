"""What DoRA's row norm is verified by: the formula in float64."""

import torch

from trivet.kernels.ops import kernel
from trivet.kernels.ops.dora import formula
from trivet.kernels.ops.dora.triton import ROW_NORM, launch_row_norm
from trivet.kernels.ops.weight import Weight
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    N, K, R = (dims[name] for name in "NKR")
    draw = torch.Generator().manual_seed(seed)
    w = (torch.randn(N, K, generator=draw) / K**0.5).to(dtype).to(kernel.device())
    a, b = (torch.randn(s, generator=draw).to(w.device) / 4 for s in ((R, K), (N, R)))

    def ours() -> Tensors:
        return (launch_row_norm(Weight.of(w), a, b, 0.5),)

    def eager() -> Tensors:
        return (formula.row_norm(w.float(), a, b, 0.5),)

    return Case(ours, eager, lambda: (formula.row_norm(w.double(), a.double(), b.double(), 0.5),))


OPS = [
    Op(
        "dora_row_norm",
        tuple(ROW_NORM.values()),
        case,
        dims={"N": (1, 31, 64, 97), "K": (1, 17, 64, 100), "R": (4, 16, 40)},
        launches=1,
    )
]
