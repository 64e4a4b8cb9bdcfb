"""The random numbers that the GPU's kernels draw, in plain torch: what a dropout mask is compared
with, element by element.

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
