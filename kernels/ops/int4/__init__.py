"""int4 in blocks along a row, in the bytes of ONNX Runtime's MatMulNBits."""

from trivet.kernels.ops.blocks import BLOCKS
from trivet.kernels.ops.int4.op import Int4, quantise

__all__ = ["BLOCKS", "Int4", "quantise"]
