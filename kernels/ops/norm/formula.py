"""RMS normalisation (Zhang & Sennrich 2019, arXiv 1910.07467), with the residual's addition.

    s = x + residual                        x, residual, s, y [rows, D], weight [D]
    r = 1 / √(mean(s²) + eps)               n = s·r        r [rows]
    y = weight ∘ n                          Gemma: y = (1 + weight) ∘ n
    ds = r·(dn − n·mean(dn ∘ n)) + ds'      dn = dy ∘ (offset + weight), ds' from s's other use
    dweight = Σ_rows dy ∘ n

Statistics are float32. Roundings are those of transformers: s to x's dtype; without an offset n is
rounded to x's dtype before the product with the weight (LlamaRMSNorm), with one it is not
(GemmaRMSNorm). y has x's dtype, whatever the weight's.

Saved for backward: s (x itself when nothing is added) and r. Each launch reads and writes every
byte once as long as a row fits in a program (D ≤ 8192 on a GPU); a longer row is read twice, the
second time from cache. A frozen weight, the rule under LoRA, costs nothing; a trainable one takes
a launch more, which reads dy and s again: partial sums for each group of rows, added in order.
On the CPU plain torch does the same in blocks of rows that stay in cache.

Not covered: a bias, LayerNorm, quantised output.
"""

import torch
from torch import Tensor


def eager(
    x: Tensor, weight: Tensor, residual: Tensor | None, offset: float, eps: float = 1e-5
) -> tuple[Tensor, ...]:
    """(y,) or (y, s) as transformers' LlamaRMSNorm, with an offset GemmaRMSNorm, computes them."""
    s = x if residual is None else x + residual
    wide = s.to(torch.promote_types(s.dtype, torch.float32))
    n = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    y = (n * (offset + weight.to(n.dtype))).to(x.dtype) if offset else weight * n.to(x.dtype)
    return (y,) if residual is None else (y, s)
