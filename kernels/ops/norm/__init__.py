"""RMS normalisation, with the residual's addition."""

from trivet.kernels.ops.norm.op import rms_norm

__all__ = ["rms_norm"]
