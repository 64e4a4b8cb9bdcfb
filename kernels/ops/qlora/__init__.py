"""QLoRA: LoRA on a frozen base in four bits."""

from trivet.kernels.ops.qlora.op import qlora_linear

__all__ = ["qlora_linear"]
