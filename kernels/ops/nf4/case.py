"""What NF4 is verified by: bytes equal to plain torch's, which tests compare with bitsandbytes'."""

import torch
from torch import Tensor

from trivet.kernels.ops.kernel import device
from trivet.kernels.ops.nf4.formula import plain_dequantise, plain_quantise
from trivet.kernels.ops.nf4.op import quantise
from trivet.kernels.ops.nf4.triton import (
    DEQUANTISE,
    DEQUANTISE_DOUBLE,
    QUANTISE,
    launch_dequantise,
    launch_quantise,
)
from trivet.kernels.verify.cases import Case, Dims, Op


def quantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The bytes are compared with plain torch's, which the tests compare with bitsandbytes'."""
    inputs = (_draw(dims, dtype, seed), dims["block"])
    return Case(
        ours=lambda: launch_quantise(*inputs),
        eager=lambda: plain_quantise(*inputs),
        truth=lambda: plain_quantise(*inputs),
    )


def dequantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """As `quantise_case`; the truth is the float32 result, which no other precision betters."""
    s = quantise(_draw(dims, dtype, seed), dims["block"], bool(dims["double"]))
    state = (s.packed, s.absmax, s.code, s.absmax2, s.offset, *s.shape, s.block)
    return Case(
        ours=lambda: (launch_dequantise(*state, dtype),),
        eager=lambda: (plain_dequantise(*state, dtype),),
        truth=lambda: (plain_dequantise(*state, torch.float32).double(),),
    )


def _draw(dims: Dims, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal weights, one block of them zeros where there is room."""
    w = torch.randn(dims["N"], dims["K"], generator=torch.Generator().manual_seed(seed))
    w.view(-1)[dims["block"] : 2 * dims["block"]] = 0
    return w.to(dtype).to(device())


_DIMS = {"N": (1, 3, 64), "K": (1, 33, 64, 300), "block": (32, 64, 128, 4096)}
OPS = [
    Op("nf4_quantise", (QUANTISE,), quantise_case, _DIMS, launches=1, error=0),
    Op(
        "nf4_dequantise", (DEQUANTISE, DEQUANTISE_DOUBLE), dequantise_case,
        _DIMS | {"double": (0, 1)}, launches=1, error=0,
    ),
]  # fmt: skip
