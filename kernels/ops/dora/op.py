"""DoRA's row norm as an operator, and its layer; formula.py has both.

Not covered: dropout, see there.
"""

import torch
from torch import Tensor

from trivet.kernels.ops.dora.triton import launch_row_norm
from trivet.kernels.ops.int4 import Int4
from trivet.kernels.ops.lora import lora_linear
from trivet.kernels.ops.nf4 import NF4
from trivet.kernels.ops.weight import Weight


def cpu_row_norm(w: Weight, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """As `launch_row_norm` (in float64 when A is)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.addmm(w.dense(wide), b.to(wide), a.to(wide), alpha=scale).norm(dim=1)


@torch.library.custom_op("trivet::dora_row_norm", mutates_args=(), device_types="cpu")
def row_norm_op(
    w: Tensor, state: list[Tensor], format: str, block: int, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """‖W + s·B A‖ of each row [N]; no gradient."""
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return cpu_row_norm(weight, a, b, scale)


@row_norm_op.register_kernel("cuda")
def _(w, state, format, block, a, b, scale):
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return launch_row_norm(weight, a, b, scale)


@row_norm_op.register_fake
def _(w, state, format, block, a, b, scale):
    return a.new_empty(b.shape[0], dtype=torch.promote_types(a.dtype, torch.float32))


def dora_linear(
    x: Tensor,
    weight: Tensor | NF4 | Int4 | Weight,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    magnitude: Tensor,
    scale: float,
) -> Tensor:
    """m/‖W + s·B A‖ ∘ (x (W + s·B A)ᵀ) + bias, differentiable in x, A, B, m [N] and bias.

    Raises ValueError as `lora_linear` does.
    """
    w = Weight.of(weight)
    norm = row_norm_op(w.data, w.state, w.format, w.block, a.detach(), b.detach(), scale)
    return lora_linear(x, w, bias, a, b, scale, gain=magnitude / norm)
