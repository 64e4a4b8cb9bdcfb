"""The gate of the feed-forward block, SwiGLU (Shazeer 2020, arXiv 2002.05202), both ways.

    y = silu(g) ∘ u        silu(g) = g·σ(g)        g, u, y [rows, N]
    dg = dy ∘ u ∘ σ(g)·(1 + g·(1 − σ(g)))          du = dy ∘ silu(g)

Saved for backward: g and u, not silu(g), which is computed anew: a third less than PyTorch's
autograd keeps. Each launch reads and writes every byte once. g and u may be the two halves of one
tensor (Phi-3's `gate_up_proj`): rows keep their stride, nothing is copied, and `swiglu_fused`
writes one gradient of the fused shape. Arithmetic is float32 with one rounding at the end, where
eager rounds silu(g) first. The CPU's two in-place operations round as eager does.

Not covered: other gates (GeGLU), a bias, views whose last dimension is not contiguous.
"""

import torch.nn.functional as F
from torch import Tensor


def halves(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the gate and the up half of Phi-3's fused tensor."""
    gate, up = gate_up.chunk(2, -1)
    return gate, up


def eager(gate_up: Tensor) -> Tensor:
    """As transformers computes it of the fused tensor."""
    gate, up = halves(gate_up)
    return F.silu(gate) * up
