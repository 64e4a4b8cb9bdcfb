"""int8's operators and the weight that they make; formula.py says what the values are.

Not covered: a gradient, for the weight is frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.kernels.ops.blocks import BLOCKS, DTYPES, check_weight, expect, finite, scale_dtype
from trivet.kernels.ops.int8.formula import plain_dequantise, plain_quantise
from trivet.kernels.ops.int8.triton import launch_dequantise, launch_quantise

quantise_op = torch.library.custom_op(
    "trivet::int8_quantise", plain_quantise, mutates_args=(), device_types="cpu"
)
dequantise_op = torch.library.custom_op(
    "trivet::int8_dequantise", plain_dequantise, mutates_args=(), device_types="cpu"
)
quantise_op.register_kernel("cuda")(launch_quantise)
dequantise_op.register_kernel("cuda")(launch_dequantise)


@quantise_op.register_fake
def _(w, block):
    q = w.new_empty(w.shape, dtype=torch.int8)
    if not block:
        return q, w.new_empty(w.shape[0], dtype=torch.float32)
    blocks = (w.shape[1] + block - 1) // block
    return q, w.new_empty(w.shape[0], blocks, dtype=scale_dtype(w))


@dequantise_op.register_fake
def _(q, scales, block, dtype):
    return q.new_empty(q.shape, dtype=dtype)


@dataclass(frozen=True)
class Int8:
    """A weight (N, K) in INT8. Raises ValueError when the tensors do not fit.

    values int8 [N, K]. scales float32 [N] by row (block = 0), or float32 or float16 [N, blocks].
    """

    values: Tensor
    scales: Tensor
    block: int = 0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.numel():
            raise ValueError(f"values has shape {tuple(self.values.shape)}: INT8 keeps a matrix")
        _check_block(self.block)
        N, K = self.values.shape
        expect("values", self.values, (N, K), (torch.int8,), self.values)
        if self.block:
            shape: tuple[int, ...] = (N, -(-K // self.block))
            expect("scales", self.scales, shape, (torch.float32, torch.float16), self.values)
        else:
            expect("scales", self.scales, (N,), (torch.float32,), self.values)
        finite("scales", self.scales)

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] in float32, float16 or bfloat16, in one launch on a GPU."""
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}: ask for float32, float16 or bfloat16")
        return dequantise_op(self.values, self.scales, self.block, dtype)

    def matmul_nbits(self) -> Tensor:
        """MatMulNBits' input B, uint8 [N, blocks, block]; its scales are `scales`.

        Raises ValueError for a weight quantised by row, which it does not know.
        """
        if not self.block:
            raise ValueError("MatMulNBits takes blocks: quantise with a block, not by row")
        raised = self.values.view(torch.uint8) ^ 0x80
        padded = F.pad(raised, (0, -raised.shape[1] % self.block))
        return padded.view(len(raised), -1, self.block)


def quantise(w: Tensor, block: int = 0) -> Int8:
    """`w` [N, K] (float32, float16, bfloat16) in INT8, by row or in blocks of `block`.

    Raises ValueError when w is not such a matrix, is empty or not finite, or block is unknown.
    """
    check_weight(w)
    _check_block(block)
    values, scales = quantise_op(w.detach().contiguous(), block)
    return Int8(values, scales, block)


def _check_block(block: int) -> None:
    if block not in (0, *BLOCKS):
        raise ValueError(f"block = {block}: INT8 has blocks of {BLOCKS}, or 0 for one scale a row")
