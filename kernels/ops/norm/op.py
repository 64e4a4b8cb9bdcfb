"""RMS normalisation's operators, their gradients, and `rms_norm`, which checks what it is given.

formula.py has what is computed, and what is not covered.
"""

from typing import Any

import torch
from torch import Tensor

from trivet.kernels.ops.norm.cpu import cpu_backward, cpu_forward
from trivet.kernels.ops.norm.triton import launch_backward, launch_forward
from trivet.kernels.ops.rows import agree, check, operator


@operator("trivet::rms_norm")
def rms_norm_op(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    launch = launch_forward if x.is_cuda else cpu_forward
    return launch(x, residual, weight, eps, offset)


@operator("trivet::rms_norm_backward")
def rms_norm_backward_op(
    dy: Tensor, ds_out: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    launch = launch_backward if s.is_cuda else cpu_backward
    return launch(dy, ds_out, s, weight, rstd, offset, needs_dweight)


@rms_norm_op.register_fake
def _(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    rstd = x.new_empty(x.numel() // x.shape[-1], dtype=wide)
    return x.new_empty(x.shape), x.new_empty(0 if residual is None else x.shape), rstd


@rms_norm_backward_op.register_fake
def _(
    dy: Tensor, ds_out: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return s.new_empty(s.shape), weight.new_empty(weight.shape if needs_dweight else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, _, ctx.offset = inputs
    _, s_out, rstd = output
    ctx.add = residual is not None
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(s_out if ctx.add else x, weight, rstd)


def _backward(ctx: Any, dy: Tensor | None, ds_out: Tensor | None, _: None) -> tuple[Any, ...]:
    s, weight, rstd = ctx.saved_tensors
    ds_out = ds_out if ctx.add else None
    if dy is None:
        return ds_out, ds_out, None, None, None
    needs = ctx.needs_input_grad[2]
    dx, dweight = rms_norm_backward_op(dy, ds_out, s, weight, rstd, ctx.offset, needs)
    return dx, dx if ctx.add else None, dweight if needs else None, None, None


rms_norm_op.register_autograd(_backward, setup_context=_save)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, offset: float = 0.0
) -> Tensor | tuple[Tensor, Tensor]:
    """y [..., D] for x [..., D] and weight [D]; with a residual, y of the sum, and the sum.

    `offset` is added to the weight: 1.0 for Gemma. Results are contiguous and of x's dtype. Raises
    ValueError when x's last dimension is missing, empty or not contiguous, when the weight does not
    have its size, when the residual is not of x's shape and dtype, or devices differ.
    """
    check(x=x, weight=weight, residual=residual)
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and x {tuple(x.shape)}: a weight for each of "
            f"x's columns is needed, [{x.shape[-1]}]"
        )
    if residual is not None:
        agree("shape", "dtype", x=x, residual=residual)
    y, s_out, _ = rms_norm_op(x, residual, weight, eps, offset)
    return y if residual is None else (y, s_out)
