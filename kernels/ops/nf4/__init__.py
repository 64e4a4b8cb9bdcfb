"""NF4, the four bits of QLoRA: quantise, dequantise, and read what bitsandbytes wrote."""

from trivet.kernels.ops.nf4.checkpoint import from_checkpoint, from_quant_state
from trivet.kernels.ops.nf4.formula import BLOCKS
from trivet.kernels.ops.nf4.op import NF4, quantise

__all__ = ["BLOCKS", "NF4", "from_checkpoint", "from_quant_state", "quantise"]
