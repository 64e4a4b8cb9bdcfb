"""The Triton kernels of int4 (formula.py), and `int4_tile` for matrix products.

A program takes whole blocks of one row, so that a scale is one program's, and an even number of
them, so that the byte of two zero points is too.

Not covered: a tile that straddles rows; K·N above 2³¹ is fine, K alone is not.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.blocks import extreme, inverse, nearest, scale_dtype, spread
from trivet.kernels.ops.int4.formula import repeat_nibble
from trivet.kernels.ops.kernel import Kernel, Tile


@triton.jit
def int4_tile(
    packed_ptr, scale_ptr, zero_ptr, n, k0, N, K,
    BLOCK: tl.constexpr, ASYM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """w' at rows n [., 1] and columns k0 … k0 + WIDTH - 1 in float32, 0 outside [N, K].

    k0 is a multiple of WIDTH. Without ASYM zero_ptr is not read. One product after an exact
    difference: no contraction.
    """
    blocks = tl.cdiv(K, BLOCK)
    row = n.to(tl.int64)
    half = k0 // 2 + tl.arange(0, WIDTH // 2)[None, :]
    byte = tl.load(
        packed_ptr + row * (blocks * (BLOCK // 2)) + half, mask=(n < N) & (2 * half < K), other=0
    ).to(tl.int32)
    SPAN: tl.constexpr = min(BLOCK, WIDTH)
    block = k0 // BLOCK + tl.arange(0, WIDTH // SPAN)[None, :]
    inside = (n < N) & (block < blocks)
    scale = tl.load(scale_ptr + row * blocks + block, mask=inside, other=0.0).to(tl.float32)
    if ASYM:
        pair = tl.load(zero_ptr + row * tl.cdiv(blocks, 2) + block // 2, mask=inside, other=0)
        zero = spread((pair.to(tl.int32) >> (block % 2 * 4)) & 15, SPAN // 2)
    else:
        zero = 8
    scale = spread(scale, SPAN // 2)
    even = ((byte & 15) - zero).to(tl.float32) * scale
    odd = ((byte >> 4) - zero).to(tl.float32) * scale
    k = k0 + tl.arange(0, WIDTH)[None, :]
    return tl.where(k < K, tl.interleave(even, odd), 0.0)


@triton.jit
def int4_quantise_kernel(
    w_ptr, packed_ptr, scale_ptr, zero_ptr, K, blocks,
    BLOCK: tl.constexpr, ASYM: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """ELEMENTS // BLOCK blocks of one row a program: an even number, for two zeros share a byte."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * (ELEMENTS // BLOCK) + tl.arange(0, ELEMENTS // BLOCK)
    k = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = block < blocks
    w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    low, high = tl.minimum(tl.min(w, 1), 0.0), tl.maximum(tl.max(w, 1), 0.0)
    if ASYM:
        spread = tl.abs(high - low)
        step = tl.div_rn(spread, tl.full(spread.shape, 15.0, tl.float32))
        z = nearest(
            tl.where(step != 0.0, tl.div_rn(-low, tl.where(step != 0.0, step, 1.0)), 0.0), 15.0
        )
        z = tl.where(inside, z, 8.0)
        even, odd = tl.split(z.to(tl.int32).reshape(ELEMENTS // BLOCK // 2, 2))
        pair = tl.program_id(1) * (ELEMENTS // BLOCK // 2) + tl.arange(0, ELEMENTS // BLOCK // 2)
        pairs = tl.cdiv(blocks, 2)
        tl.store(zero_ptr + row * pairs + pair, (odd << 4 | even).to(tl.uint8), mask=pair < pairs)
    else:
        first = tl.load(w_ptr + row * K + block * BLOCK, mask=inside, other=0.0).to(tl.float32)
        step = extreme(low, high, first) * -0.125
        z = tl.full(step.shape, 8.0, tl.float32)
    scale = step.to(scale_ptr.dtype.element_ty)
    tl.store(scale_ptr + row * blocks + block, scale, mask=inside)
    q = nearest(w * inverse(scale.to(tl.float32))[:, None] + z[:, None], 15.0)
    q = tl.where(k < K, q.to(tl.int32), 0)
    even, odd = tl.split(q.reshape(ELEMENTS // BLOCK, BLOCK // 2, 2))
    byte = block[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    out = packed_ptr + row * (blocks * (BLOCK // 2)) + byte
    tl.store(out, (odd << 4 | even).to(tl.uint8), mask=inside[:, None])


@triton.jit
def int4_dequantise_kernel(
    packed_ptr, scale_ptr, zero_ptr, out_ptr, K, blocks,
    BLOCK: tl.constexpr, ASYM: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """ELEMENTS // BLOCK blocks of one row a program: each byte, scale and zero is read once."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * (ELEMENTS // BLOCK) + tl.arange(0, ELEMENTS // BLOCK)
    inside = block < blocks
    byte = block[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    start = packed_ptr + row * (blocks * (BLOCK // 2))
    packed = tl.load(start + byte, mask=inside[:, None], other=0).to(tl.int32)
    scale = tl.load(scale_ptr + row * blocks + block, mask=inside, other=0.0).to(tl.float32)
    if ASYM:
        pair = tl.load(zero_ptr + row * tl.cdiv(blocks, 2) + block // 2, mask=inside, other=0)
        z = (pair.to(tl.int32) >> (block % 2 * 4)) & 15
    else:
        z = tl.full(block.shape, 8, tl.int32)
    even = ((packed & 15) - z[:, None]).to(tl.float32) * scale[:, None]
    odd = ((packed >> 4) - z[:, None]).to(tl.float32) * scale[:, None]
    k = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    w = tl.interleave(even, odd).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * K + k, w, mask=k < K)


_TILES = {"*": Tile({"ELEMENTS": 2048}, warps=4), "interpreter": Tile({"ELEMENTS": 512})}
_VARIANTS = tuple({"BLOCK": b, "ASYM": a} for b in (32, 128) for a in (False, True))
_STATE = {"packed_ptr": "*u8", "scale_ptr": "*fp32", "zero_ptr": "*u8"}
_SIZES = {"K": "i32", "blocks": "i32"}
QUANTISE = Kernel(
    int4_quantise_kernel, {"w_ptr": "*bf16", **_STATE, **_SIZES}, _TILES, _VARIANTS, exact=True
)
DEQUANTISE = Kernel(
    int4_dequantise_kernel, {**_STATE, "out_ptr": "*bf16", **_SIZES}, _TILES, _VARIANTS, exact=True
)


def launch_quantise(w: Tensor, block: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """packed, scales and zeros ([N, 0] when symmetric) of a contiguous `w`, by the kernel."""
    (N, K), blocks = w.shape, triton.cdiv(w.shape[1], block)
    packed = torch.empty(N, blocks, block // 2, dtype=torch.uint8, device=w.device)
    scales = torch.empty(N, blocks, dtype=scale_dtype(w), device=w.device)
    zeros = packed.new_empty(N, 0 if symmetric else (blocks + 1) // 2)
    QUANTISE.launch(
        lambda t: (N, triton.cdiv(blocks * block, t["ELEMENTS"])),
        *(w, packed, scales, packed if symmetric else zeros, K, blocks),
        BLOCK=block,
        ASYM=not symmetric,
    )
    return repeat_nibble(packed, K), scales, zeros


def launch_dequantise(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, columns: int, dtype: torch.dtype
) -> Tensor:
    """w' [N, columns] in `dtype`, by one launch of the kernel."""
    N, blocks, half = packed.shape
    out = torch.empty(N, columns, dtype=dtype, device=packed.device)
    DEQUANTISE.launch(
        lambda t: (N, triton.cdiv(blocks * half * 2, t["ELEMENTS"])),
        *(packed, scales, packed if zeros is None else zeros, out, columns, blocks),
        BLOCK=half * 2,
        ASYM=zeros is not None,
    )
    return out
