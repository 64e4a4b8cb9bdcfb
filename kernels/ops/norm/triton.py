"""The Triton kernels of RMS normalisation (formula.py), and how they are launched.

Not covered: a row above 8192 is read twice, the second time from cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.rows import rows


@triton.jit
def row_part(x, residual, inside, ADD: tl.constexpr):
    """s in float32: x, or the sum rounded to x's dtype."""
    s = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        s += tl.load(residual, mask=inside, other=0.0).to(tl.float32)
        s = s.to(x.dtype.element_ty).to(tl.float32)
    return s


@triton.jit
def rms_norm_forward_kernel(
    x, residual, weight, y, s_out, rstd, M, D, stride_x, stride_residual, eps, offset,
    ADD: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """SPAN // WIDTH rows of y, and of s when there is a residual; WIDTH is D's next power of 2."""
    BLOCK: tl.constexpr = WIDTH if WIDTH <= SPAN else SPAN // 2
    ROWS: tl.constexpr = SPAN // BLOCK if WIDTH <= SPAN else 1
    m = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    s = tl.zeros((ROWS, BLOCK), tl.float32)
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for d0 in range(0, D, BLOCK):
        d = d0 + column
        inside = (m < M) & (d < D)
        s = row_part(x + m * stride_x + d, residual + m * stride_residual + d, inside, ADD)
        squares += s * s
        if ADD:
            tl.store(s_out + m * D + d, s.to(s_out.dtype.element_ty), mask=inside)
    r = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(squares, 1) / D + eps))[:, None]
    tl.store(rstd + m, r, mask=m < M)
    for d0 in range(0, D, BLOCK):
        d = d0 + column
        inside = (m < M) & (d < D)
        if WIDTH > SPAN:  # only the row's last block is still at hand
            s = row_part(x + m * stride_x + d, residual + m * stride_residual + d, inside, ADD)
        n = s * r
        if not OFFSET:
            n = n.to(y.dtype.element_ty).to(tl.float32)
        w = offset + tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
        tl.store(y + m * D + d, (n * w).to(y.dtype.element_ty), mask=inside)


@triton.jit
def normalised(s, dy, weight, r, offset, inside, d, D):
    """n and dn at columns d, whose pointers are given."""
    w = offset + tl.load(weight, mask=d < D, other=0.0).to(tl.float32)
    n = r * tl.load(s, mask=inside, other=0.0).to(tl.float32)
    return n, w * tl.load(dy, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def rms_norm_backward_kernel(
    dy, ds_out, s, weight, rstd, dx, M, D, stride_dy, stride_ds_out, stride_s, offset,
    ADD: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """SPAN // WIDTH rows of dx."""
    BLOCK: tl.constexpr = WIDTH if WIDTH <= SPAN else SPAN // 2
    ROWS: tl.constexpr = SPAN // BLOCK if WIDTH <= SPAN else 1
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    r = tl.load(rstd + row, mask=row < M, other=0.0)[:, None]
    m = row[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    n = tl.zeros((ROWS, BLOCK), tl.float32)
    dn = tl.zeros((ROWS, BLOCK), tl.float32)
    products = tl.zeros((ROWS, BLOCK), tl.float32)
    for d0 in range(0, D, BLOCK):
        d = d0 + column
        inside = (m < M) & (d < D)
        n, dn = normalised(
            s + m * stride_s + d, dy + m * stride_dy + d, weight + d, r, offset, inside, d, D
        )
        products += dn * n
    mean = (tl.sum(products, 1) / D)[:, None]
    for d0 in range(0, D, BLOCK):
        d = d0 + column
        inside = (m < M) & (d < D)
        if WIDTH > SPAN:
            n, dn = normalised(
                s + m * stride_s + d, dy + m * stride_dy + d, weight + d, r, offset, inside, d, D
            )
        ds = r * (dn - n * mean)
        if ADD:
            ds += tl.load(ds_out + m * stride_ds_out + d, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + m * D + d, ds.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def rms_norm_weight_kernel(
    dy, s, rstd, partial, M, D, stride_dy, stride_s, group,
    OFFSET: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The sum over `group` rows of dy ∘ n, for BLOCK_D columns."""
    first = tl.program_id(0) * group
    d = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for m0 in range(first, min(first + group, M), BLOCK_M):
        row = (m0 + tl.arange(0, BLOCK_M)).to(tl.int64)
        r = tl.load(rstd + row, mask=row < M, other=0.0)[:, None]
        m = row[:, None]
        inside = (m < min(first + group, M)) & (d < D)
        n = r * tl.load(s + m * stride_s + d, mask=inside, other=0.0).to(tl.float32)
        if not OFFSET:
            n = n.to(s.dtype.element_ty).to(tl.float32)
        acc += n * tl.load(dy + m * stride_dy + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(partial + tl.program_id(0) * D + d, tl.sum(acc, 0)[None, :], mask=d < D)


_FLAGS = [{"ADD": add, "WIDTH": width} for add in (False, True) for width in (1024, 4096, 16384)]
# 8 warps hold a row of 8192 in registers, 32 elements a thread, without spills
_TILES = {"*": Tile({"SPAN": 8192}, warps=8), "interpreter": Tile({"SPAN": 256})}
FORWARD = Kernel(
    rms_norm_forward_kernel,
    {
        **dict.fromkeys(("x", "residual", "weight", "y", "s_out"), "*bf16"),
        "rstd": "*fp32",
        **dict.fromkeys(("M", "D", "stride_x", "stride_residual"), "i32"),
        **dict.fromkeys(("eps", "offset"), "fp32"),
    },
    _TILES,
    tuple({**flags, "OFFSET": offset} for flags in _FLAGS for offset in (False, True)),
)
BACKWARD = Kernel(
    rms_norm_backward_kernel,
    {
        **dict.fromkeys(("dy", "ds_out", "s", "weight"), "*bf16"),
        "rstd": "*fp32",
        "dx": "*bf16",
        **dict.fromkeys(("M", "D", "stride_dy", "stride_ds_out", "stride_s"), "i32"),
        "offset": "fp32",
    },
    _TILES,
    tuple(_FLAGS),
)
WEIGHT = Kernel(
    rms_norm_weight_kernel,
    {
        **dict.fromkeys(("dy", "s"), "*bf16"),
        **dict.fromkeys(("rstd", "partial"), "*fp32"),
        **dict.fromkeys(("M", "D", "stride_dy", "stride_s", "group"), "i32"),
    },
    {
        "*": Tile({"BLOCK_M": 32, "BLOCK_D": 128}),
        "interpreter": Tile({"BLOCK_M": 16, "BLOCK_D": 64}),
    },
    ({"OFFSET": False}, {"OFFSET": True}),
)


def launch_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, s ([0] without a residual) and r [rows], in one launch."""
    flat = rows(x)
    M, D = flat.shape
    y, rstd = x.new_empty(x.shape), x.new_empty(M, dtype=torch.float32)
    s_out = x.new_empty(0 if residual is None else x.shape)
    added = flat if residual is None else rows(residual)
    width = triton.next_power_of_2(D)
    FORWARD.launch(
        lambda t: (_programs(M, width, t["SPAN"]),),
        flat, added, weight, y, s_out if residual is not None else y, rstd,
        M, D, flat.stride(0), added.stride(0), eps, offset,
        ADD=residual is not None, OFFSET=offset != 0, WIDTH=width,
    )  # fmt: skip
    return y, s_out, rstd


def launch_backward(
    dy: Tensor, ds_out: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """ds and dweight ([0] unless needed), in one launch and another for the weight."""
    flat, dy = rows(s), rows(dy)
    M, D = flat.shape
    dx = s.new_empty(s.shape)
    other = dy if ds_out is None else rows(ds_out)
    width = triton.next_power_of_2(D)
    BACKWARD.launch(
        lambda t: (_programs(M, width, t["SPAN"]),),
        dy, other, flat, weight, rstd, dx,
        M, D, dy.stride(0), other.stride(0), flat.stride(0), offset,
        ADD=ds_out is not None, WIDTH=width,
    )  # fmt: skip
    if not needs_dweight:
        return dx, weight.new_empty(0)
    group = max(32, triton.cdiv(M, 64))
    partial = weight.new_empty(triton.cdiv(M, group), D, dtype=torch.float32)
    WEIGHT.launch(
        lambda t: (len(partial), triton.cdiv(D, t["BLOCK_D"])),
        dy, flat, rstd, partial, M, D, dy.stride(0), flat.stride(0), group, OFFSET=offset != 0,
    )  # fmt: skip
    return dx, partial.sum(0).to(weight.dtype)


def _programs(M: int, width: int, span: int) -> int:
    return triton.cdiv(M, max(1, span // width))
