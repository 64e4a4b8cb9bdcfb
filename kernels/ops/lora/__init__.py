"""The linear layer of LoRA. Read formula.py, then triton.py."""

from trivet.kernels.ops.lora.op import lora_linear

__all__ = ["lora_linear"]
