"""The Triton kernels of int8 (formula.py): by row in two passes, in blocks in one.

Not covered: a product.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.blocks import extreme, inverse, nearest, scale_dtype
from trivet.kernels.ops.int8.formula import OVER_127
from trivet.kernels.ops.kernel import Kernel, Tile

_OVER_127 = tl.constexpr(OVER_127)


@triton.jit
def int8_row_kernel(w_ptr, q_ptr, scale_ptr, K, ELEMENTS: tl.constexpr):
    """One row a program, in two passes."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((ELEMENTS,), tl.float32)
    for k0 in range(0, K, ELEMENTS):
        k = k0 + tl.arange(0, ELEMENTS)
        w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(w))
    scale = tl.max(largest, 0)
    tl.store(scale_ptr + row, scale)
    factor = tl.div_rn(tl.full((1,), 1.0, tl.float32), tl.zeros((1,), tl.float32) + scale) * 127.0
    for k0 in range(0, K, ELEMENTS):
        k = k0 + tl.arange(0, ELEMENTS)
        w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
        x = w * factor
        x = tl.where(tl.abs(x) < 128.0, x, 0.0)  # not left to the cast: a GPU's saturates
        x = (x + 12582912.0) - 12582912.0  # 1.5·2²³: its unit is one, so the sum rounds to even
        tl.store(q_ptr + row * K + k, x.to(tl.int8), mask=k < K)


@triton.jit
def int8_block_kernel(
    w_ptr, q_ptr, scale_ptr, K, blocks, BLOCK: tl.constexpr, ELEMENTS: tl.constexpr
):
    """ELEMENTS // BLOCK blocks of one row a program."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * (ELEMENTS // BLOCK) + tl.arange(0, ELEMENTS // BLOCK)
    k = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = block < blocks
    w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    first = tl.load(w_ptr + row * K + block * BLOCK, mask=inside, other=0.0).to(tl.float32)
    step = extreme(tl.min(w, 1), tl.max(w, 1), first) * -0.0078125
    scale = step.to(scale_ptr.dtype.element_ty)
    tl.store(scale_ptr + row * blocks + block, scale, mask=inside)
    q = nearest(w * inverse(scale.to(tl.float32))[:, None] + 128.0, 255.0) - 128.0
    tl.store(q_ptr + row * K + k, q.to(tl.int8), mask=k < K)


@triton.jit
def int8_dequantise_kernel(
    q_ptr, scale_ptr, out_ptr, K, blocks, BLOCK: tl.constexpr, ELEMENTS: tl.constexpr
):
    """ELEMENTS of one row a program; BLOCK = 0 is one scale for the row."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    q = tl.load(q_ptr + row * K + k, mask=k < K, other=0).to(tl.float32)
    if BLOCK:
        at = scale_ptr + row * blocks + k // BLOCK
        w = q * tl.load(at, mask=k < K, other=0.0).to(tl.float32)
    else:
        w = q * tl.load(scale_ptr + row) * _OVER_127
    tl.store(out_ptr + row * K + k, w.to(out_ptr.dtype.element_ty), mask=k < K)


_TILES = {"*": Tile({"ELEMENTS": 2048}, warps=4), "interpreter": Tile({"ELEMENTS": 256})}
_STATE = {"q_ptr": "*i8", "scale_ptr": "*fp32"}
_SIZES = {"K": "i32", "blocks": "i32"}
ROW = Kernel(int8_row_kernel, {"w_ptr": "*bf16", **_STATE, "K": "i32"}, _TILES, exact=True)
BLOCK = Kernel(
    int8_block_kernel, {"w_ptr": "*bf16", **_STATE, **_SIZES}, _TILES,
    ({"BLOCK": 32}, {"BLOCK": 128}), exact=True,
)  # fmt: skip
DEQUANTISE = Kernel(
    int8_dequantise_kernel, {**_STATE, "out_ptr": "*bf16", **_SIZES}, _TILES,
    ({"BLOCK": 0}, {"BLOCK": 32}, {"BLOCK": 128}), exact=True,
)  # fmt: skip


def launch_quantise(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """values and scales of a contiguous `w`, by the kernel; block = 0 is by row."""
    N, K = w.shape
    q = torch.empty(N, K, dtype=torch.int8, device=w.device)
    if not block:
        scales = torch.empty(N, dtype=torch.float32, device=w.device)
        ROW.launch(lambda t: (N,), w, q, scales, K)
        return q, scales
    blocks = triton.cdiv(K, block)
    scales = torch.empty(N, blocks, dtype=scale_dtype(w), device=w.device)
    BLOCK.launch(lambda t: (N, triton.cdiv(K, t["ELEMENTS"])), w, q, scales, K, blocks, BLOCK=block)
    return q, scales


def launch_dequantise(q: Tensor, scales: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """w' [N, K] in `dtype`, by one launch of the kernel."""
    N, K = q.shape
    out = torch.empty(N, K, dtype=dtype, device=q.device)
    blocks = scales.shape[1] if block else 1
    DEQUANTISE.launch(
        lambda t: (N, triton.cdiv(K, t["ELEMENTS"])), q, scales, out, K, blocks, BLOCK=block
    )
    return out
