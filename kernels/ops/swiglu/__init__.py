"""SwiGLU, the gate of the feed-forward block."""

from trivet.kernels.ops.swiglu.op import swiglu, swiglu_fused

__all__ = ["swiglu", "swiglu_fused"]
