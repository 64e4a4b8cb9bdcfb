"""Cross-entropy through a frozen output head."""

from trivet.kernels.ops.loss.op import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
