"""The Triton kernels of the LoRA layer; formula.py has what they compute.

Forward is one launch: the tile that multiplies by W also makes its rows of h, which costs R/BLOCK_N
more arithmetic and spares h's way through memory between two GEMMs. Backward is two: dx (which
leaves t·s/(1 − p) behind), then dA and dB. Nothing is added atomically and each sum has one order,
so repeats are bit-equal. The dropout mask is a function of (seed, row, column), drawn anew in each
kernel; `boost` is 1/(1 − p), which the host divides.

With a quantised W the product is promised no bytes, but the tile of W is: compiled without
contraction it is the one that the dequantise kernels make, so fused and split multiply the same W.

Not covered: above rank 32 the forward makes h in chunks of 32 and reads x again for each, and dx
reads dy again.
"""

import triton
import triton.language as tl

from trivet.kernels.ops.weight import weight_tile


@triton.jit
def tile_of(pid, rows, columns, group):
    """Tile (row, column) of program `pid`: down `group` rows, then one column on, so that what is
    read twice is still in the L2; launch.py chooses the group."""
    width = group * columns
    first = (pid // width) * group
    height = min(rows - first, group)
    return first + (pid % width) % height, (pid % width) // height


@triton.jit
def dropout_mask(seed, p, m, k, K):
    """The dropout mask at rows m [., 1] and columns k [1, .]."""
    return tl.rand(seed, m * K + k) >= p


@triton.jit
def lora_forward_kernel(
    x, w, s0, s1, s2, s3, bias, a, b, gain, y, h,
    M, N, K, R, stride_x, stride_w, group, scale, p, boost, seed,
    FORMAT: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr,
    BIAS: tl.constexpr, GAIN: tl.constexpr, DROPOUT: tl.constexpr,
    RANK: tl.constexpr, CHUNKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_N] tile of y; the first column of tiles also writes h."""
    i, j = tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), group)
    m = (i * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    n = (j * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    r = tl.arange(0, RANK)[:, None]
    x_row = x + m.to(tl.int64) * stride_x
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    low = tl.zeros((BLOCK_M, RANK), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = (k0 + tl.arange(0, BLOCK_K))[None, :]
        xt = tl.load(x_row + k, mask=(m < M) & (k < K), other=0.0)
        wt = weight_tile(w, s0, s1, s2, s3, n, k0, N, K, stride_w, FORMAT, BLOCK, DOUBLE, BLOCK_K)
        at = tl.load(a + r * K + k, mask=(r < R) & (k < K), other=0.0).to(xt.dtype)
        acc = tl.dot(xt, tl.trans(wt.to(xt.dtype)), acc, input_precision="ieee")
        if DROPOUT:
            xt = tl.where(dropout_mask(seed, p, m, k, K), xt, 0.0).to(xt.dtype)
        low = tl.dot(xt, tl.trans(at), low, input_precision="ieee")
    low *= boost
    c = tl.arange(0, RANK)[None, :]
    tl.store(h + m * R + c, low.to(x.dtype.element_ty), mask=(m < M) & (c < R) & (j == 0))
    bt = tl.load(b + n * R + c, mask=(n < N) & (c < R), other=0.0).to(x.dtype.element_ty)
    acc = tl.dot((low * scale).to(bt.dtype), tl.trans(bt), acc, input_precision="ieee")
    if CHUNKED:  # a rank that does not fit beside the main product: x is read again for each chunk
        for r0 in range(RANK, R, RANK):
            low = tl.zeros((BLOCK_M, RANK), tl.float32)
            for k0 in range(0, K, BLOCK_K):
                k = (k0 + tl.arange(0, BLOCK_K))[None, :]
                xt = tl.load(x_row + k, mask=(m < M) & (k < K), other=0.0)
                at = tl.load(a + (r0 + r) * K + k, mask=(r0 + r < R) & (k < K), other=0.0)
                if DROPOUT:
                    xt = tl.where(dropout_mask(seed, p, m, k, K), xt, 0.0).to(xt.dtype)
                low = tl.dot(xt, tl.trans(at.to(xt.dtype)), low, input_precision="ieee")
            low *= boost
            c = r0 + tl.arange(0, RANK)[None, :]
            tl.store(h + m * R + c, low.to(x.dtype.element_ty), mask=(m < M) & (c < R) & (j == 0))
            bt = tl.load(b + n * R + c, mask=(n < N) & (c < R), other=0.0).to(x.dtype.element_ty)
            acc = tl.dot((low * scale).to(bt.dtype), tl.trans(bt), acc, input_precision="ieee")
    col = (j * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    if GAIN:
        acc *= tl.load(gain + col, mask=col < N, other=0.0).to(tl.float32)
    if BIAS:
        acc += tl.load(bias + col, mask=col < N, other=0.0).to(tl.float32)
    y_row = y + m.to(tl.int64) * N
    out = acc.to(y.dtype.element_ty)
    tl.store(y_row + col, out, mask=(m < M) & (col < N), eviction_policy="evict_first")


@triton.jit
def lora_dx_kernel(
    dy, w, s0, s1, s2, s3, a, b, gain, dx, t,
    M, N, K, R, stride_w, group, scale, p, boost, seed,
    FORMAT: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr,
    GAIN: tl.constexpr, DROPOUT: tl.constexpr, RANK: tl.constexpr, CHUNKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_K] tile of dx; the first column of tiles also writes t."""
    i, j = tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(K, BLOCK_K), group)
    m = (i * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = (j * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    dy_row = dy + m.to(tl.int64) * N
    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    low = tl.zeros((BLOCK_M, RANK), tl.float32)
    c = tl.arange(0, RANK)[None, :]
    for n0 in range(0, N, BLOCK_N):
        col = (n0 + tl.arange(0, BLOCK_N))[None, :]
        n = (n0 + tl.arange(0, BLOCK_N))[:, None]
        dz = tl.load(dy_row + col, mask=(m < M) & (col < N), other=0.0)
        if GAIN:
            g = tl.load(gain + col, mask=col < N, other=0.0).to(tl.float32)
            dz = (dz.to(tl.float32) * g).to(dz.dtype)
        wt = weight_tile(
            w, s0, s1, s2, s3, n, j * BLOCK_K, N, K, stride_w, FORMAT, BLOCK, DOUBLE, BLOCK_K
        )
        bt = tl.load(b + n * R + c, mask=(n < N) & (c < R), other=0.0).to(dz.dtype)
        acc = tl.dot(dz, wt.to(dz.dtype), acc, input_precision="ieee")
        low = tl.dot(dz, bt, low, input_precision="ieee")
    r = tl.arange(0, RANK)[:, None]
    at = tl.load(a + r * K + k, mask=(r < R) & (k < K), other=0.0).to(dy.dtype.element_ty)
    low *= scale * boost
    tt = low.to(at.dtype)
    tl.store(t + m * R + c, tt, mask=(m < M) & (c < R) & (j == 0))
    if DROPOUT:
        delta = tl.dot(tt, at, input_precision="ieee")
    else:
        acc = tl.dot(tt, at, acc, input_precision="ieee")
    if CHUNKED:
        for r0 in range(RANK, R, RANK):
            c = r0 + tl.arange(0, RANK)[None, :]
            low = tl.zeros((BLOCK_M, RANK), tl.float32)
            for n0 in range(0, N, BLOCK_N):
                col = (n0 + tl.arange(0, BLOCK_N))[None, :]
                n = (n0 + tl.arange(0, BLOCK_N))[:, None]
                dz = tl.load(dy_row + col, mask=(m < M) & (col < N), other=0.0)
                if GAIN:
                    g = tl.load(gain + col, mask=col < N, other=0.0).to(tl.float32)
                    dz = (dz.to(tl.float32) * g).to(dz.dtype)
                bt = tl.load(b + n * R + c, mask=(n < N) & (c < R), other=0.0).to(dz.dtype)
                low = tl.dot(dz, bt, low, input_precision="ieee")
            r = r0 + tl.arange(0, RANK)[:, None]
            at = tl.load(a + r * K + k, mask=(r < R) & (k < K), other=0.0).to(dy.dtype.element_ty)
            low *= scale * boost
            tt = low.to(at.dtype)
            tl.store(t + m * R + c, tt, mask=(m < M) & (c < R) & (j == 0))
            if DROPOUT:
                delta = tl.dot(tt, at, delta, input_precision="ieee")
            else:
                acc = tl.dot(tt, at, acc, input_precision="ieee")
    if DROPOUT:
        acc += tl.where(dropout_mask(seed, p, m, k, K), delta, 0.0)
    dx_row = dx + m.to(tl.int64) * K
    out = acc.to(dx.dtype.element_ty)
    tl.store(dx_row + k, out, mask=(m < M) & (k < K), eviction_policy="evict_first")


@triton.jit
def lora_weights_kernel(
    dy, x, h, t, y, bias, gain, da, db, dgain,
    M, N, K, R, stride_x, scale, p, seed,
    BIAS: tl.constexpr, GAIN: tl.constexpr, DROPOUT: tl.constexpr, RANK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[RANK, BLOCK] of dA for the first programs, [BLOCK, RANK] of dB (and dg) for the others."""
    i = tl.program_id(0)
    r0 = tl.program_id(1) * RANK
    r = (r0 + tl.arange(0, RANK))[None, :]
    a_tiles = tl.cdiv(K, BLOCK)
    column = tl.arange(0, BLOCK)[None, :]
    acc = tl.zeros((BLOCK, RANK), tl.float32)
    if i < a_tiles:
        k = i * BLOCK + column
        for m0 in range(0, M, BLOCK_M):
            m = (m0 + tl.arange(0, BLOCK_M))[:, None]
            xt = tl.load(x + m.to(tl.int64) * stride_x + k, mask=(m < M) & (k < K), other=0.0)
            if DROPOUT:
                xt = tl.where(dropout_mask(seed, p, m, k, K), xt, 0.0).to(xt.dtype)
            tt = tl.load(t + m * R + r, mask=(m < M) & (r < R), other=0.0)
            acc = tl.dot(tl.trans(xt), tt, acc, input_precision="ieee")
        rk = da + tl.trans(r) * K + k
        tl.store(rk, tl.trans(acc).to(da.dtype.element_ty), mask=(tl.trans(r) < R) & (k < K))
    else:
        n = (i - a_tiles) * BLOCK + column
        accum_g = tl.zeros((1, BLOCK), tl.float32)
        for m0 in range(0, M, BLOCK_M):
            m = (m0 + tl.arange(0, BLOCK_M))[:, None]
            at = m.to(tl.int64) * N + n
            dz = tl.load(dy + at, mask=(m < M) & (n < N), other=0.0)
            if GAIN:
                wide = dz.to(tl.float32)
                z = tl.load(y + at, mask=(m < M) & (n < N), other=0.0).to(tl.float32)
                if BIAS:
                    z -= tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
                accum_g += tl.sum(tl.where(m < M, wide * z, 0.0), 0)[None, :]
                dz = (wide * tl.load(gain + n, mask=n < N, other=0.0).to(tl.float32)).to(dz.dtype)
            ht = tl.load(h + m * R + r, mask=(m < M) & (r < R), other=0.0)
            acc = tl.dot(tl.trans(dz), ht, acc, input_precision="ieee")
        nr = db + tl.trans(n) * R + r
        tl.store(nr, (acc * scale).to(db.dtype.element_ty), mask=(tl.trans(n) < N) & (r < R))
        if GAIN:
            g = tl.load(gain + n, mask=n < N, other=1.0).to(tl.float32)
            tl.store(dgain + n, (accum_g / g).to(dgain.dtype.element_ty), mask=(n < N) & (r0 == 0))
