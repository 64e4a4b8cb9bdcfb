"""The formulas in float64, as one reads them: what the kernels' errors are measured against.

Each function takes float64 tensors and returns float64; gradients come from autograd. Random masks
are the ones the GPU kernels draw, so that dropout too is compared element by element.

Not covered: anything fast.
"""

import numpy as np
import torch
from torch import Tensor


def uniform(seed: int, count: int) -> Tensor:
    """[count] float32 in [0, 1): what `tl.rand(seed, 0 … count-1)` gives.

    Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
    """
    mask = np.uint64(0xFFFFFFFF)
    c0 = np.arange(count, dtype=np.uint64)
    c1 = c2 = c3 = np.zeros(count, np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        low, high = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (high >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            high & mask,
            (low >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            low & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    signed = c0.astype(np.uint32).view(np.int32)
    magnitude = np.where(signed < 0, -signed - 1, signed)
    return torch.from_numpy(magnitude.astype(np.float32) * np.float32(4.6566127342e-10))


def lora(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    gain: Tensor | None,
    scale: float,
    mask: Tensor | None,
) -> Tensor:
    """g ∘ (x Wᵀ + s·(x ∘ mask) Aᵀ Bᵀ) + bias; `mask` holds 0 and 1/(1 − p)."""
    y = x @ w.T + scale * ((x if mask is None else x * mask) @ a.T @ b.T)
    if gain is not None:
        y = y * gain
    return y if bias is None else y + bias


def row_norm(w: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """‖W + s·B A‖ of each row (Liu et al. 2024, "DoRA", arXiv 2402.09353, equation 5)."""
    return (w + scale * (b @ a)).norm(dim=1)
