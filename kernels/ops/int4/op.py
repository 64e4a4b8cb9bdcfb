"""int4's operators and the weight that they make; formula.py says what the bytes are.

Not covered: a gradient, for the weight is frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trivet.kernels.ops.blocks import BLOCKS, DTYPES, check_weight, expect, finite, scale_dtype
from trivet.kernels.ops.int4.formula import plain_dequantise, plain_quantise
from trivet.kernels.ops.int4.triton import launch_dequantise, launch_quantise

quantise_op = torch.library.custom_op(
    "trivet::int4_quantise", plain_quantise, mutates_args=(), device_types="cpu"
)
dequantise_op = torch.library.custom_op(
    "trivet::int4_dequantise", plain_dequantise, mutates_args=(), device_types="cpu"
)
quantise_op.register_kernel("cuda")(launch_quantise)
dequantise_op.register_kernel("cuda")(launch_dequantise)


@quantise_op.register_fake
def _(w, block, symmetric):
    N, blocks = w.shape[0], (w.shape[1] + block - 1) // block
    packed = w.new_empty(N, blocks, block // 2, dtype=torch.uint8)
    zeros = packed.new_empty(N, 0 if symmetric else (blocks + 1) // 2)
    return packed, w.new_empty(N, blocks, dtype=scale_dtype(w)), zeros


@dequantise_op.register_fake
def _(packed, scales, zeros, columns, dtype):
    return packed.new_empty(packed.shape[0], columns, dtype=dtype)


@dataclass(frozen=True)
class Int4:
    """A weight (N, K) in INT4: MatMulNBits' inputs B, scales and zero_points as they are.

    packed uint8 [N, blocks, block/2], scales float32 or float16 [N, blocks], zeros uint8
    [N, ceil(blocks/2)] or None when symmetric. Raises ValueError when these do not fit.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor | None
    shape: tuple[int, int]
    block: int = 32

    def __post_init__(self) -> None:
        _check(self)

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] in float32, float16 or bfloat16, in one launch on a GPU."""
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}: ask for float32, float16 or bfloat16")
        return dequantise_op(self.packed, self.scales, self.zeros, self.shape[1], dtype)


def quantise(w: Tensor, block: int = 32, symmetric: bool = True) -> Int4:
    """`w` [N, K] (float32, float16, bfloat16) in INT4.

    Raises ValueError when w is not such a matrix, is empty or not finite, or block not in BLOCKS.
    """
    check_weight(w)
    if block not in BLOCKS:
        raise ValueError(f"block = {block}: INT4 has blocks of {BLOCKS}")
    packed, scales, zeros = quantise_op(w.detach().contiguous(), block, symmetric)
    return Int4(packed, scales, None if symmetric else zeros, (w.shape[0], w.shape[1]), block)


def _check(state: Int4) -> None:
    """ValueError unless each tensor has the shape, dtype and device it must have."""
    if len(state.shape) != 2 or min(state.shape) < 1:
        raise ValueError(f"shape is {state.shape}: INT4 keeps a matrix (N, K) with elements")
    if state.block not in BLOCKS:
        raise ValueError(f"block = {state.block}: INT4 has blocks of {BLOCKS}")
    N, blocks = state.shape[0], -(-state.shape[1] // state.block)
    expect("packed", state.packed, (N, blocks, state.block // 2), (torch.uint8,), state.packed)
    expect("scales", state.scales, (N, blocks), (torch.float32, torch.float16), state.packed)
    if state.zeros is not None:
        expect("zeros", state.zeros, (N, (blocks + 1) // 2), (torch.uint8,), state.packed)
    finite("scales", state.scales)
