"""DoRA: LoRA with a norm for each row of the weight."""

from trivet.kernels.ops.dora.op import dora_linear

__all__ = ["dora_linear"]
