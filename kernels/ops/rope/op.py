"""The rotary embedding's operator, its gradient, and `rope`, which checks what it is given.

formula.py has what is computed, and what is not covered.
"""

from typing import Any

import torch
from torch import Tensor

from trivet.kernels.ops.rope.cpu import cpu
from trivet.kernels.ops.rope.triton import launch
from trivet.kernels.ops.rows import agree, check, dense, operator


@operator("trivet::rope")
def rope_op(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    return (launch if q.is_cuda else cpu)(q, k, cos, sin, back)


rope_op.register_fake(lambda q, k, *_: (torch.empty_like(dense(q)), torch.empty_like(dense(k))))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Any, ...]:
    return *rope_op(dq, dk, *ctx.saved_tensors, not ctx.back), None, None, None


rope_op.register_autograd(_backward, setup_context=_save)


def rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """As transformers' `apply_rotary_pos_emb`; the results have q's and k's dtype.

    q [B, H, S, D] and k [B, HK, S, D], or with `unsqueeze_dim=2` [B, S, H, D] and [B, S, HK, D];
    cos and sin [B or 1, S, R], R ≤ D even. Raises ValueError when that is not so, a last dimension
    is not contiguous, q and k differ in dtype, or devices differ.
    """
    check(q=q, k=k, cos=cos, sin=sin)
    agree("dtype", q=q, k=k)
    agree("shape", cos=cos, sin=sin)
    if unsqueeze_dim not in (1, 2):
        raise ValueError(f"unsqueeze_dim is {unsqueeze_dim}: heads are dimension 1 or 2")
    if unsqueeze_dim == 2:
        q, k = rope(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        return q.transpose(1, 2), k.transpose(1, 2)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, cos and sin {tuple(cos.shape)}"
    if q.dim() != 4 or k.dim() != 4 or cos.dim() != 3:
        raise ValueError(f"{shapes}: [B, H, S, D], [B, HK, S, D] and [B or 1, S, R] are needed")
    B, _, S, D = q.shape
    if (k.shape[0], *k.shape[2:]) != (B, S, D):
        raise ValueError(f"{shapes}: q and k must agree in batch, positions and head dimension")
    if cos.shape[0] not in (1, B) or cos.shape[1] != S:
        raise ValueError(f"{shapes}: cos and sin must be of 1 or q's batch, and of q's positions")
    if cos.shape[2] > D or cos.shape[2] % 2:
        raise ValueError(f"{shapes}: R, cos's last dimension, must be even and at most {D}")
    return rope_op(q, k, cos.detach(), sin.detach(), False)
