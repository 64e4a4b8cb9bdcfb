"""What int8 is verified by: bytes equal to plain torch's, which tests compare with others'."""

import torch
from torch import Tensor

from trivet.kernels.ops.blocks import BLOCKS
from trivet.kernels.ops.int8.formula import plain_dequantise, plain_quantise
from trivet.kernels.ops.int8.op import quantise
from trivet.kernels.ops.int8.triton import (
    BLOCK,
    DEQUANTISE,
    ROW,
    launch_dequantise,
    launch_quantise,
)
from trivet.kernels.ops.kernel import device
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def quantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The bytes are compared with plain torch's, which the tests compare with other libraries'."""
    inputs = (_draw(dims, dtype, seed), dims["block"])
    plain = lambda: plain_quantise(*inputs)  # noqa: E731
    return Case(ours=lambda: launch_quantise(*inputs), eager=plain, truth=plain)


def dequantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """As `quantise_case`; the truth is the float32 result, which no other precision betters."""
    s = quantise(_draw(dims, dtype, seed), dims["block"])

    def plain(to: torch.dtype) -> Tensors:
        return (plain_dequantise(s.values, s.scales, s.block, to),)

    return Case(
        ours=lambda: (launch_dequantise(s.values, s.scales, s.block, dtype),),
        eager=lambda: plain(dtype),
        truth=lambda: plain(torch.float32),
    )


def _draw(dims: Dims, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal weights, the first row zeros when there are others."""
    w = torch.randn(dims["N"], dims["K"], generator=torch.Generator().manual_seed(seed))
    w[: dims["N"] // 3] = 0
    return w.to(dtype).to(device())


_DIMS = {"N": (1, 3, 9), "K": (1, 31, 64, 65, 300, 600), "block": (0, *BLOCKS)}
OPS = [
    Op("int8_quantise", (ROW, BLOCK), quantise_case, _DIMS, launches=1, error=0),
    Op("int8_dequantise", (DEQUANTISE,), dequantise_case, _DIMS, launches=1, error=0),
]
