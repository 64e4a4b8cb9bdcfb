"""What int4 is verified by: bytes equal to plain torch's, which tests compare with others'."""

import torch
from torch import Tensor

from trivet.kernels.ops.blocks import BLOCKS
from trivet.kernels.ops.int4.formula import plain_dequantise, plain_quantise
from trivet.kernels.ops.int4.op import quantise
from trivet.kernels.ops.int4.triton import DEQUANTISE, QUANTISE, launch_dequantise, launch_quantise
from trivet.kernels.ops.kernel import device
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def quantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The bytes are compared with plain torch's, which the tests compare with ONNX Runtime's."""
    inputs = (_draw(dims, dtype, seed), dims["block"], bool(dims["symmetric"]))
    plain = lambda: plain_quantise(*inputs)  # noqa: E731
    return Case(ours=lambda: launch_quantise(*inputs), eager=plain, truth=plain)


def dequantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """As `quantise_case`; the truth is the float32 result, which no other precision betters."""
    s = quantise(_draw(dims, dtype, seed), dims["block"], bool(dims["symmetric"]))
    state = (s.packed, s.scales, s.zeros, s.shape[1])

    def plain(to: torch.dtype) -> Tensors:
        return (plain_dequantise(*state, to),)

    return Case(
        ours=lambda: (launch_dequantise(*state, dtype),),
        eager=lambda: plain(dtype),
        truth=lambda: plain(torch.float32),
    )


def _draw(dims: Dims, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal weights, off centre, one block of them zeros where there is room."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(dims["N"], dims["K"], generator=draw) + torch.randn(
        dims["N"], 1, generator=draw
    )
    w[:, dims["block"] : 2 * dims["block"]] = 0
    return w.to(dtype).to(device())


_DIMS = {"N": (1, 3, 9), "K": (1, 31, 64, 65, 300, 600), "block": BLOCKS, "symmetric": (0, 1)}
OPS = [
    Op("int4_quantise", (QUANTISE,), quantise_case, _DIMS, launches=1, error=0),
    Op("int4_dequantise", (DEQUANTISE,), dequantise_case, _DIMS, launches=1, error=0),
]
