"""int8 with one scale for a row or for a block of it."""

from trivet.kernels.ops.blocks import BLOCKS
from trivet.kernels.ops.int8.op import Int8, quantise

__all__ = ["BLOCKS", "Int8", "quantise"]
