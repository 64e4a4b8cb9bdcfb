"""The linear layer of LoRA, forward and backward (Hu et al. 2021, arXiv 2106.09685, equation 3).

    h  = (x ∘ mask / (1 − p)) Aᵀ                x [M, K], A [R, K], h [M, R]
    y  = g ∘ (x Wᵀ + s·h Bᵀ) + bias             W [N, K] frozen, B [N, R], g [N] (DoRA) or absent
    dz = g ∘ dy            t  = dz B            t [M, R]
    dx = dz W + s/(1 − p)·mask ∘ (t A)
    dA = s·tᵀ (x ∘ mask / (1 − p))    dB = s·dzᵀ h    dg = Σₘ dy ∘ (y − bias) / g

Forward is one launch: the tile that multiplies by W also makes its rows of h, which costs R/BLOCK_N
more arithmetic and spares h's way through memory between two GEMMs. Backward is two: dx (which
leaves t behind), then dA and dB. Nothing is added atomically and each sum has one order, so repeats
are bit-equal. The dropout mask is a function of (seed, row, column), drawn anew in each kernel and
never stored. W may be quantised (ops/qlora); ops/weight.py reads it.

Saved for backward: x and h, and y when there is a g. On the CPU plain torch does the same sums; its
mask comes from torch's own generator, so it differs from a GPU's for the same seed.

Not covered: a trainable W (dW), ranks above 256, more than 2³¹ elements in x with dropout.
"""

from torch import Tensor


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
