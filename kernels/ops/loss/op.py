"""The loss's operator, its gradient, and `linear_cross_entropy`, which checks what it is given.

formula.py has what is computed, and what is not covered.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivet.kernels.ops import kernel
from trivet.kernels.ops.loss.cpu import cpu_losses
from trivet.kernels.ops.loss.triton import launch_losses
from trivet.kernels.ops.rows import check, operator

Losses = Callable[[Tensor, Tensor, bool], Tensor]
# Logits of one chunk, by device: 128 rows of SmolLM2's vocabulary, 1024 of Llama 3's.
BUDGET = {"cpu": 6 << 20, "cuda": 128 << 20}


def chunked(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    ignore_index: int,
    gradient: bool,
    losses_of: Losses,
) -> tuple[Tensor, Tensor]:
    """The losses of the rows with a target; dh [rows, D] ([0] without `gradient`) of their mean.

    `losses_of` is `launch_losses` or `cpu_losses`.
    """
    dhidden = hidden.new_zeros(hidden.shape if gradient else 0)
    with_target = (targets != ignore_index).nonzero().flatten()
    losses = hidden.new_empty(
        len(with_target), dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    if not len(with_target):
        return losses, dhidden
    low, high = torch.stack(targets.index_select(0, with_target).aminmax()).tolist()
    if low < 0 or high >= len(head):
        raise ValueError(
            f"targets reach from {low} to {high} and the head has {len(head)} rows: mark rows "
            f"without a target with ignore_index, {ignore_index}"
        )
    size = max(1, BUDGET[hidden.device.type] // len(head))
    logits = hidden.new_empty(min(size, len(with_target)), len(head))
    for rows, out in zip(with_target.split(size), losses.split(size), strict=True):
        z = torch.mm(hidden.index_select(0, rows), head.t(), out=logits[: len(rows)])
        out.copy_(losses_of(z, targets.index_select(0, rows), gradient))
        if gradient:
            dhidden.index_copy_(0, rows, torch.mm(z, head))
    return losses, dhidden.div_(len(with_target))


@operator("trivet::linear_cross_entropy")
def loss_op(
    hidden: Tensor, head: Tensor, targets: Tensor, ignore_index: int, gradient: bool
) -> tuple[Tensor, Tensor]:
    losses_of = launch_losses if hidden.is_cuda else cpu_losses
    losses, dhidden = chunked(hidden, head, targets, ignore_index, gradient, losses_of)
    return losses.sum() / max(1, len(losses)), dhidden


@loss_op.register_fake
def _(
    hidden: Tensor, head: Tensor, targets: Tensor, ignore_index: int, gradient: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    loss = hidden.new_empty((), dtype=wide)
    return loss, hidden.new_empty(hidden.shape if gradient else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Any, ...]:
    (dhidden,) = ctx.saved_tensors
    return dhidden * dloss, None, None, None, None


loss_op.register_autograd(_backward, setup_context=_save)


def linear_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, ignore_index: int = -1
) -> Tensor:
    """Mean of −log softmax(hidden headᵀ)[target] over the rows whose target is not `ignore_index`.

    hidden [rows, D], head [V, D] frozen, targets [rows] int64; a float32 scalar (float64 for
    float64). The products are in hidden's dtype, or autocast's; the head is cast to it, which takes
    a copy where it differs. Without any target the loss is 0 and so is its gradient: such a batch
    changes nothing, where F.cross_entropy would give NaN.

    Raises ValueError when the head requires a gradient, or for shapes, dtypes and devices that do
    not fit. Other targets outside [0, V) are
    refused before any product.
    """
    check(hidden=hidden, head=head)
    if head.requires_grad:
        raise ValueError(
            "head requires a gradient, which this loss does not make: freeze it with "
            "head.requires_grad_(False), or use F.cross_entropy(F.linear(hidden, head), targets)"
        )
    if hidden.dim() != 2 or head.dim() != 2 or hidden.shape[1] != head.shape[1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)} and head {tuple(head.shape)}: [rows, D] and "
            "[V, D] are needed; flatten the batch with hidden.flatten(0, -2)"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets is {targets.dtype} {tuple(targets.shape)}: int64 [{len(hidden)}], one for "
            "each row of hidden, is needed"
        )
    if targets.device != hidden.device:
        raise ValueError(
            f"targets is on {targets.device} and hidden on {hidden.device}: move targets there"
        )
    hidden = kernel.autocast(hidden)
    gradient = hidden.requires_grad and torch.is_grad_enabled()
    loss: Tensor = loss_op(hidden, head.to(hidden.dtype), targets, ignore_index, gradient)[0]
    return loss
