"""The frozen weight of a linear layer as the kernels see it: dense values or quantised bytes.

W [N, K], row n for output n. A kernel asks `weight_tile` for a tile and does not know the format;
plain torch asks `Weight.dense`. The bytes are nf4.py's or int4.py's.

Not covered: formats whose blocks run down a column.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FORMATS = {"dense": 0, "nf4": 1, "int4": 2}


@triton.jit
def weight_tile(
    w, s0, s1, s2, s3, n, k, N, K, stride_w,
    FORMAT: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """W at rows n [., 1] and columns k [1, .]; FORMAT as in `FORMATS`."""
    inside = (n < N) & (k < K)
    tile = tl.load(w + n.to(tl.int64) * stride_w + k, mask=inside, other=0.0)
    return tile


@dataclass(frozen=True)
class Weight:
    """`data`: the values [N, K], or the packed bytes. `state`: what else the format needs."""

    data: Tensor
    state: list[Tensor] = field(default_factory=list)
    format: str = "dense"
    block: int = 0

    def pointers(self) -> list[Tensor]:
        """`data` and four of state, as `weight_tile` takes them; the unused ones are not read."""
        return [self.data, *self.state, *[self.data] * (4 - len(self.state))]

    def constants(self) -> dict[str, Any]:
        return {
            "FORMAT": FORMATS[self.format],
            "BLOCK": self.block,
            "DOUBLE": len(self.state) > 1,
        }

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The values in `dtype`."""
        return self.data.to(dtype)
