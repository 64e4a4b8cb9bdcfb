"""The frozen weight of a linear layer as the kernels see it: dense values or quantised bytes.

W [N, K], row n for output n. A kernel asks `weight_tile` for a tile and does not know the format;
plain torch asks `Weight.dense`. The bytes are ops/nf4's or ops/int4's.

Not covered: formats whose blocks run down a column; tiles of an NF4 weight whose blocks straddle
rows (K no multiple of the block): such a layer multiplies a 16-bit copy.
"""

from dataclasses import dataclass, field
from typing import Any, Union

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.int4 import Int4
from trivet.kernels.ops.int4 import op as int4
from trivet.kernels.ops.int4.triton import int4_tile
from trivet.kernels.ops.nf4 import NF4
from trivet.kernels.ops.nf4 import op as nf4
from trivet.kernels.ops.nf4.triton import nf4_tile

FORMATS = {"dense": 0, "nf4": 1, "int4": 2}


@triton.jit
def weight_tile(
    w, s0, s1, s2, s3, n, k0, N, K, stride_w,
    FORMAT: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """W at rows n [., 1] and columns k0 … k0 + WIDTH - 1, 0 outside [N, K]; k0 is a multiple of
    WIDTH, FORMAT as in `FORMATS`, s0 … s3 its state."""
    if FORMAT == 0:
        k = (k0 + tl.arange(0, WIDTH))[None, :]
        tile = tl.load(w + n.to(tl.int64) * stride_w + k, mask=(n < N) & (k < K), other=0.0)
    elif FORMAT == 1:
        tile = nf4_tile(w, s0, s1, s2, s3, n, k0, N, K, BLOCK, DOUBLE, WIDTH)
    else:
        tile = int4_tile(w, s0, s1, n, k0, N, K, BLOCK, DOUBLE, WIDTH)
    return tile


@dataclass(frozen=True)
class Weight:
    """`data`: the values [N, K], or the packed bytes. `state`: what else the format needs."""

    data: Tensor
    state: list[Tensor] = field(default_factory=list)
    format: str = "dense"
    block: int = 0
    shape: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, source: Union[Tensor, NF4, Int4, "Weight"]) -> "Weight":
        if isinstance(source, Weight):
            return source
        if isinstance(source, Tensor):
            return cls(source, shape=(source.shape[0], source.shape[1]))
        if isinstance(source, NF4):
            format, state = "nf4", [source.absmax, source.code, source.absmax2, source.offset]
        else:
            format, state = "int4", [source.scales, source.zeros]
        tensors = [t for t in state if t is not None]
        return cls(source.packed, tensors, format, source.block, source.shape)

    @property
    def tiled(self) -> bool:
        """Whether each row is whole blocks: int4's are padded to be, NF4's blocks are of the flat
        weight."""
        return self.format != "nf4" or self.shape[1] % self.block == 0

    def pointers(self) -> list[Tensor]:
        """`data` and four of state, as `weight_tile` takes them; the unused ones are not read."""
        return [self.data, *self.state, *[self.data] * (4 - len(self.state))]

    def constants(self) -> dict[str, Any]:
        """As `weight_tile` takes them; ValueError for a weight that is not `tiled`."""
        if not self.tiled:
            raise ValueError(
                f"NF4 blocks of {self.block} straddle the rows of a weight of shape {self.shape}: "
                "multiply its 16-bit copy."
            )
        return {
            "FORMAT": FORMATS[self.format],
            "BLOCK": self.block,
            "DOUBLE": len(self.state) > 1,
        }

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The values [N, K] in `dtype`; of a quantised weight a copy, to be dropped after use."""
        if self.format == "dense":
            return self.data.to(dtype)
        narrow = torch.float32 if dtype == torch.float64 else dtype
        if self.format == "int4":
            scales, zeros = [*self.state, None][:2]
            return int4.dequantise_op(self.data, scales, zeros, self.shape[1], narrow).to(dtype)
        state = [*self.state, None, None, None][:4]
        return nf4.dequantise_op(self.data, *state, *self.shape, self.block, narrow).to(dtype)
