"""The LoRA layer on the CPU, by plain torch; formula.py has the sums.

16-bit values stay in memory, and are multiplied in what hardware/cpu.py says.

Not covered: the GPU's dropout mask; torch's own generator makes this one.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.kernels.hardware.cpu import matmul_dtype
from trivet.kernels.ops.weight import Weight


def cpu_forward(
    x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor, gain: Tensor | None,
    scale: float, dropout: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `launch_forward`, in plain torch."""
    work = matmul_dtype(x.dtype)
    wide = x.to(work)
    h = F.linear(_dropout(wide, dropout, seed), a.to(work))
    y = F.linear(wide, w.dense(work), None if bias is None or gain is not None else bias.to(work))
    y.addmm_(h, b.to(work).t(), alpha=scale)
    if gain is not None:
        y.mul_(gain.to(work))
        if bias is not None:
            y.add_(bias)
    return y.to(x.dtype), h.to(x.dtype)


def cpu_backward(
    dy: Tensor, x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor,
    gain: Tensor | None, h: Tensor, y: Tensor | None,
    scale: float, dropout: float, seed: int, needs_dx: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `launch_backward`, in plain torch; without `needs_dx` its dx is empty."""
    work = matmul_dtype(x.dtype)
    dz, dgain = dy.to(work), x.new_empty(0)
    if gain is not None:
        z = cast(Tensor, y).to(gain.dtype)
        if bias is not None:
            z = z - bias
        dgain = (dz * z).sum(0).div_(gain).to(gain.dtype)
        dz = dz * gain.to(work)
    a_, b_ = a.to(work), b.to(work)
    t = dz @ b_
    da = torch.mm(t.t(), _dropout(x.to(work), dropout, seed)).mul_(scale).to(a.dtype)
    db = torch.mm(dz.t(), h.to(work)).mul_(scale).to(b.dtype)
    if not needs_dx:
        return x.new_empty(0), da, db, dgain
    dx = dz @ w.dense(work)
    if dropout:
        dx += _dropout(t @ a_, dropout, seed).mul_(scale)
    else:
        dx.addmm_(t, a_, alpha=scale)
    return dx.to(x.dtype), da, db, dgain


def _dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """x ∘ mask / (1 − p), the mask a function of the seed alone."""
    if not p:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    return x * torch.empty_like(x).bernoulli_(1 - p, generator=generator).div_(1 - p)
