"""DoRA's row norm, straight from the frozen weight, dense or quantised.

    ‖Vₙ‖ = √ Σₖ (W[n, k] + s·Σᵣ B[n, r] A[r, k])²          g = m / ‖V‖

(Liu et al. 2024, "DoRA", arXiv 2402.09353, equation 5). A program takes BLOCK_N rows, walks over K
and adds up squares, so neither W + sBA nor a 16-bit copy of a quantised W is ever held: one launch,
which reads W once. The layer itself is ops/lora with the gain g. As section 4.3 of the paper asks,
the norm is a constant for the gradient; m's comes through g.

Not covered: dropout. With it PEFT multiplies W by the dropped input a second time; `patch` leaves
such layers to PEFT while they train.
"""

from torch import Tensor


def row_norm(w: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """‖W + s·B A‖ of each row (Liu et al. 2024, "DoRA", arXiv 2402.09353, equation 5)."""
    return (w + scale * (b @ a)).norm(dim=1)
