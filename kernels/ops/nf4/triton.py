"""The Triton kernels of NF4 (formula.py), and `nf4_tile` for kernels that multiply.

A level is found by a tree of selects: no table in memory, and no spill where a chain of 15 tests
has one. Each program takes whole blocks of one flat weight, so an absmax is one program's.

Not covered: a tile of a weight whose rows are not whole blocks. Contraction: a kernel that uses
`nf4_tile` gets bitsandbytes' very bytes only when compiled without it, since double quantisation is
a product and then a sum.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.blocks import spread
from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.nf4.formula import GROUP, LEVELS, MIDPOINTS

_GROUP = tl.constexpr(GROUP)

_L = tl.constexpr(LEVELS)
_M = tl.constexpr(MIDPOINTS)
_LEAST = tl.constexpr(torch.tensor(1e-38).view(torch.int32).item())  # the bits of 1e-38


@triton.jit
def nf4_level(q):
    """The level of each code in 0..15: a tree of selects, 15 for an element and no table in memory.

    A chain of 15 tests spills on sm_80; the tree takes four tests.
    """
    b0, b1, b2, b3 = (q & 1) != 0, (q & 2) != 0, (q & 4) != 0, (q & 8) != 0
    low = tl.where(
        b2,
        tl.where(b1, tl.where(b0, _L[7], _L[6]), tl.where(b0, _L[5], _L[4])),
        tl.where(b1, tl.where(b0, _L[3], _L[2]), tl.where(b0, _L[1], _L[0])),
    )
    high = tl.where(
        b2,
        tl.where(b1, tl.where(b0, _L[15], _L[14]), tl.where(b0, _L[13], _L[12])),
        tl.where(b1, tl.where(b0, _L[11], _L[10]), tl.where(b0, _L[9], _L[8])),
    )
    return tl.where(b3, high, low)


@triton.jit
def nf4_absmax(absmax_ptr, code_ptr, absmax2_ptr, offset_ptr, block, mask, DOUBLE: tl.constexpr):
    """absmax of each block in the tile `block`, from one level or from two."""
    if DOUBLE:
        code = tl.load(absmax_ptr + block, mask=mask, other=0).to(tl.int32)
        level = tl.load(code_ptr + code, mask=mask, other=0.0)
        group = tl.load(absmax2_ptr + block // _GROUP, mask=mask, other=0.0)
        absmax = level * group + tl.load(offset_ptr)
    else:
        absmax = tl.load(absmax_ptr + block, mask=mask, other=0.0)
    return absmax


@triton.jit
def nf4_tile(
    packed_ptr, absmax_ptr, code_ptr, absmax2_ptr, offset, n, k0, N, K,
    BLOCK: tl.constexpr, DOUBLE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """w' at rows n [., 1] and columns k0 … k0 + WIDTH - 1 in float32, 0 outside [N, K].

    K is a multiple of BLOCK and k0 of WIDTH, so each byte and each absmax is read once, not once
    for each element. `offset` is a pointer to one float32: as a number it would have to come off
    the GPU. Without DOUBLE the last three pointers are not read. The bytes are bitsandbytes' only
    in a kernel compiled without contraction (`Kernel(exact=True)`): DOUBLE has a product and a sum.
    """
    row = n.to(tl.int64)
    half = k0 // 2 + tl.arange(0, WIDTH // 2)[None, :]
    byte = tl.load(packed_ptr + row * (K // 2) + half, mask=(n < N) & (2 * half < K), other=0)
    SPAN: tl.constexpr = min(BLOCK, WIDTH)
    k = k0 + tl.arange(0, WIDTH // SPAN)[None, :] * SPAN
    inside = (n < N) & (k < K)
    block = row * (K // BLOCK) + k // BLOCK
    absmax = nf4_absmax(absmax_ptr, code_ptr, absmax2_ptr, offset, block, inside, DOUBLE)
    absmax = spread(tl.where(inside, absmax, 0.0), SPAN // 2)
    byte = byte.to(tl.int32)
    return tl.interleave(nf4_level(byte >> 4) * absmax, nf4_level(byte & 15) * absmax)


@triton.jit
def nf4_quantise_kernel(
    w_ptr, packed_ptr, absmax_ptr, n, bytes, BLOCK: tl.constexpr, ELEMENTS: tl.constexpr
):
    """ELEMENTS // BLOCK blocks a program. The maximum is of bits, as integers: NaN is largest."""
    block = tl.program_id(0).to(tl.int64) * (ELEMENTS // BLOCK) + tl.arange(0, ELEMENTS // BLOCK)
    element = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    w = tl.load(w_ptr + element, mask=element < n, other=0.0).to(tl.float32)
    largest = tl.max(w.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)
    raised = tl.maximum(largest, _LEAST)
    whole = (block + 1) * BLOCK <= n
    absmax = tl.where(whole, largest, raised).to(tl.float32, bitcast=True)
    tl.store(absmax_ptr + block, absmax, mask=block * BLOCK < n)
    divisor = raised.to(tl.float32, bitcast=True)
    inverse = tl.div_rn(tl.full(divisor.shape, 1.0, tl.float32), divisor)
    divided = tl.div_rn(w, tl.broadcast_to(divisor[:, None], w.shape))
    s = tl.where(whole[:, None], w * inverse[:, None], divided)
    s = tl.where(element < n, s, 0.0)
    q = tl.zeros(s.shape, tl.int32)
    for j in tl.static_range(15):
        q += tl.where(s <= _M[j], 0, 1)  # this way round NaN counts
    high, low = tl.split(q.reshape(ELEMENTS // BLOCK, BLOCK // 2, 2))
    byte = block[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    tl.store(packed_ptr + byte, (high << 4 | low).to(tl.uint8), mask=byte < bytes)


@triton.jit
def nf4_dequantise_kernel(
    packed_ptr, absmax_ptr, code_ptr, absmax2_ptr, offset_ptr, out_ptr, n, bytes,
    BLOCK: tl.constexpr, DOUBLE: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """ELEMENTS // BLOCK blocks a program: each byte and each absmax is read once."""
    block = tl.program_id(0).to(tl.int64) * (ELEMENTS // BLOCK) + tl.arange(0, ELEMENTS // BLOCK)
    byte = block[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    packed = tl.load(packed_ptr + byte, mask=byte < bytes, other=0).to(tl.int32)
    absmax = nf4_absmax(
        absmax_ptr, code_ptr, absmax2_ptr, offset_ptr, block, block * BLOCK < n, DOUBLE
    )[:, None]
    w = tl.interleave(nf4_level(packed >> 4) * absmax, nf4_level(packed & 15) * absmax)
    element = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out_ptr + element, w.to(out_ptr.dtype.element_ty), mask=element < n)


_TILES = {"*": Tile({"ELEMENTS": 4096}, warps=4), "interpreter": Tile({"ELEMENTS": 4096})}
QUANTISE = Kernel(
    nf4_quantise_kernel,
    {"w_ptr": "*bf16", "packed_ptr": "*u8", "absmax_ptr": "*fp32", "n": "i32", "bytes": "i32"},
    _TILES,
    ({"BLOCK": 64}, {"BLOCK": 128}, {"BLOCK": 4096}),
    exact=True,
)
_STATE = {"code_ptr": "*fp32", "absmax2_ptr": "*fp32", "offset_ptr": "*fp32"}
DEQUANTISE = Kernel(
    nf4_dequantise_kernel,
    {
        "packed_ptr": "*u8",
        "absmax_ptr": "*fp32",
        **_STATE,
        "out_ptr": "*bf16",
        "n": "i32",
        "bytes": "i32",
    },
    _TILES,
    ({"BLOCK": 64, "DOUBLE": False}, {"BLOCK": 4096, "DOUBLE": False}),
    exact=True,
)
DEQUANTISE_DOUBLE = Kernel(
    nf4_dequantise_kernel,
    {
        "packed_ptr": "*u8",
        "absmax_ptr": "*u8",
        **_STATE,
        "out_ptr": "*bf16",
        "n": "i32",
        "bytes": "i32",
    },
    _TILES,
    ({"BLOCK": 64, "DOUBLE": True}, {"BLOCK": 4096, "DOUBLE": True}),
    exact=True,
)


def launch_quantise(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """packed and absmax of a contiguous `w`, by the kernel."""
    n = w.numel()
    packed = torch.empty((n + 1) // 2, dtype=torch.uint8, device=w.device)
    absmax = torch.empty(triton.cdiv(n, block), dtype=torch.float32, device=w.device)
    QUANTISE.launch(
        lambda tile: (triton.cdiv(n, tile["ELEMENTS"]),),
        w,
        packed,
        absmax,
        n,
        len(packed),
        BLOCK=block,
    )
    return packed, absmax


def launch_dequantise(
    packed: Tensor, absmax: Tensor, code: Tensor | None, absmax2: Tensor | None,
    offset: Tensor | None, rows: int, columns: int, block: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """w'[rows, columns] in `dtype`, by one launch of the kernel."""
    n = rows * columns
    out = torch.empty(rows, columns, dtype=dtype, device=packed.device)
    double = absmax2 is not None
    state = (code, absmax2, offset) if double else (absmax, absmax, absmax)
    (DEQUANTISE_DOUBLE if double else DEQUANTISE).launch(
        lambda tile: (triton.cdiv(n, tile["ELEMENTS"]),),
        *(packed, absmax, *state, out, n, len(packed)),
        BLOCK=block,
        DOUBLE=double,
    )
    return out
