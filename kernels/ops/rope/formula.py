"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of queries and keys in one launch.

    y₁ = x₁ ∘ cos₁ − x₂ ∘ sin₁        x₁, x₂ the halves of a head's first R entries
    y₂ = x₂ ∘ cos₂ + x₁ ∘ sin₂        the entries from R on (Phi-3's partial rotary) pass through

Backward is the same with (sin₁, sin₂) replaced by (−sin₂, −sin₁), the rotation by −θ; so the
gradient is the operator itself and cos and sin are all that is saved. They get no gradient. A
program turns all heads of one token, so that cos and sin too are read once. Strides of batch, head
and position are free: the transposed views that attention makes are read in place, and the results
have the same order in memory. Arithmetic is float32 with one rounding, where eager has three.

Not covered: interleaved pairs (GLM, GPT-J), attention scaling outside cos and sin.
"""

import torch
from torch import Tensor


def eager(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As transformers computes it, Phi-3's partial rotary included."""
    R = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]

    def rotate(x: Tensor) -> Tensor:
        x, rest = x[..., :R], x[..., R:]
        first, second = x.chunk(2, -1)
        y = x * cos + torch.cat((-second, first), -1) * sin
        return torch.cat((y, rest), -1)

    return rotate(q), rotate(k)
