"""Rotary position embedding of queries and keys."""

from trivet.kernels.ops.rope.op import rope

__all__ = ["rope"]
