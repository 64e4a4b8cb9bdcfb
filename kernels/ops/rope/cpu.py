"""The rotary embedding on the CPU, by plain torch: three passes and no temporary.

Not covered: one rounding; in bfloat16 it rounds twice, the GPU's kernel once.
"""

import torch
from torch import Tensor

from trivet.kernels.ops.rows import dense


def cpu(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """As `launch`, in plain torch: three passes and no temporary."""
    R = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, second = sin.chunk(2, -1)
    if back:
        first, second = -second, -first

    def rotate(x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.mul(x[..., :R], cos, out=y[..., :R])
        y[..., : R // 2].addcmul_(x[..., R // 2 : R], first, value=-1)
        y[..., R // 2 : R].addcmul_(x[..., : R // 2], second)
        y[..., R:] = x[..., R:]
        return y

    return rotate(dense(q)), rotate(dense(k))
