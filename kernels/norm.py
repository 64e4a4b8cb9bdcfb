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

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import spec
from .rows import agree, check, operator, rows
from .spec import Case, Dims, Kernel, Op, Tensors, Tile

# Numbers that the CPU handles at once, 512 KiB of float32: backward is 1.3 times as fast as with
# all of [1024, 576] at once, on a Xeon with 2 MiB of L2.
CACHED = 1 << 17


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
    x, residual, weight, y, total, rstd, M, D, stride_x, stride_residual, eps, offset,
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
            tl.store(total + m * D + d, s.to(total.dtype.element_ty), mask=inside)
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
    dy, dtotal, s, weight, rstd, dx, M, D, stride_dy, stride_dtotal, stride_s, offset,
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
            ds += tl.load(dtotal + m * stride_dtotal + d, mask=inside, other=0.0).to(tl.float32)
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


def launch_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, s ([0] without a residual) and r [rows], in one launch."""
    flat = rows(x)
    M, D = flat.shape
    y, rstd = x.new_empty(x.shape), x.new_empty(M, dtype=torch.float32)
    total = x.new_empty(0 if residual is None else x.shape)
    added = flat if residual is None else rows(residual)
    width = triton.next_power_of_2(D)
    FORWARD.launch(
        lambda t: (_programs(M, width, t["SPAN"]),),
        flat, added, weight, y, total if residual is not None else y, rstd,
        M, D, flat.stride(0), added.stride(0), eps, offset,
        ADD=residual is not None, OFFSET=offset != 0, WIDTH=width,
    )  # fmt: skip
    return y, total, rstd


def launch_backward(
    dy: Tensor, dtotal: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """ds and dweight ([0] unless needed), in one launch and another for the weight."""
    flat, dy = rows(s), rows(dy)
    M, D = flat.shape
    dx = s.new_empty(s.shape)
    other = dy if dtotal is None else rows(dtotal)
    width = triton.next_power_of_2(D)
    BACKWARD.launch(
        lambda t: (_programs(M, width, t["SPAN"]),),
        dy, other, flat, weight, rstd, dx,
        M, D, dy.stride(0), other.stride(0), flat.stride(0), offset,
        ADD=dtotal is not None, WIDTH=width,
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


def cpu_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `launch_forward`, in plain torch."""
    total = x.new_empty(0) if residual is None else torch.add(x, residual)
    s = rows(x if residual is None else total)
    wide = torch.promote_types(x.dtype, torch.float32)
    y, rstd = x.new_empty(s.shape), x.new_empty(len(s), 1, dtype=wide)
    scale = weight if not offset else weight.to(wide) + offset
    for part, out, r in zip(*(_blocks(t, s) for t in (s, y, rstd)), strict=True):
        n = part.to(wide)
        torch.linalg.vector_norm(n, dim=-1, keepdim=True, out=r)
        r.square_().div_(s.shape[1]).add_(eps).rsqrt_()
        n = n.mul_(r) if n is not part else n * r
        if offset:
            out.copy_(n.mul_(scale))
        else:
            out.copy_(n).mul_(scale)
    return y.view(x.shape), total, rstd.flatten()


def cpu_backward(
    dy: Tensor, dtotal: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `launch_backward`, in plain torch."""
    flat, dy = rows(s), rows(dy)
    wide, scale = rstd.dtype, weight.to(rstd.dtype) + offset
    dx = s.new_empty(flat.shape)
    other = dx if dtotal is None else rows(dtotal)
    dweight = weight.new_zeros(flat.shape[1], dtype=wide) if needs_dweight else None
    parts = zip(*(_blocks(t, flat) for t in (flat, dy, rstd[:, None], other, dx)), strict=True)
    for part, d, r, more, out in parts:
        n = part.to(wide) * r
        d = d.to(wide)
        if dweight is not None:
            dweight += (d * (n if offset else n.to(s.dtype).to(wide))).sum(0)
        dn = d * scale
        mean = (dn * n).sum(-1, keepdim=True).div_(flat.shape[1])
        dn.addcmul_(n, mean, value=-1).mul_(r)
        out.copy_(dn if dtotal is None else dn.add_(more))
    return dx.view(s.shape), weight.new_empty(0) if dweight is None else dweight.to(weight.dtype)


def _blocks(x: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """The rows of x in blocks, as many as of `like` are `CACHED` numbers."""
    return x.split(max(1, CACHED // like.shape[1]))


@operator("trivet::rms_norm")
def rms_norm_op(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    launch = launch_forward if x.is_cuda else cpu_forward
    return launch(x, residual, weight, eps, offset)


@operator("trivet::rms_norm_backward")
def rms_norm_backward_op(
    dy: Tensor, dtotal: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    launch = launch_backward if s.is_cuda else cpu_backward
    return launch(dy, dtotal, s, weight, rstd, offset, needs_dweight)


@rms_norm_op.register_fake
def _(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    rstd = x.new_empty(x.numel() // x.shape[-1], dtype=wide)
    return x.new_empty(x.shape), x.new_empty(0 if residual is None else x.shape), rstd


@rms_norm_backward_op.register_fake
def _(
    dy: Tensor, dtotal: Tensor | None, s: Tensor, weight: Tensor, rstd: Tensor, offset: float,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return s.new_empty(s.shape), weight.new_empty(weight.shape if needs_dweight else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    x, residual, weight, _, ctx.offset = inputs
    _, total, rstd = output
    ctx.add = residual is not None
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(total if ctx.add else x, weight, rstd)


def _backward(ctx: Any, dy: Tensor | None, dtotal: Tensor | None, _: None) -> tuple[Any, ...]:
    s, weight, rstd = ctx.saved_tensors
    dtotal = dtotal if ctx.add else None
    if dy is None:
        return dtotal, dtotal, None, None, None
    needs = ctx.needs_input_grad[2]
    dx, dweight = rms_norm_backward_op(dy, dtotal, s, weight, rstd, ctx.offset, needs)
    return dx, dx if ctx.add else None, dweight if needs else None, None, None


rms_norm_op.register_autograd(_backward, setup_context=_save)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, offset: float = 0.0
) -> Tensor | tuple[Tensor, Tensor]:
    """y [..., D] for x [..., D] and weight [D]; with a residual, y of the sum, and the sum.

    `offset` is added to the weight: 1.0 for Gemma. Results are contiguous and of x's dtype. Raises
    ValueError when x's last dimension is missing, empty or not contiguous, when the weight does not
    have its size, when the residual is not of x's shape and dtype, or devices differ.
    """
    check(x=x, weight=weight, residual=residual)
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and x {tuple(x.shape)}: a weight for each of "
            f"x's columns is needed, [{x.shape[-1]}]"
        )
    if residual is not None:
        agree("shape", "dtype", x=x, residual=residual)
    y, total, _ = rms_norm_op(x, residual, weight, eps, offset)
    return y if residual is None else (y, total)


_FLAGS = [{"ADD": add, "WIDTH": width} for add in (False, True) for width in (1024, 4096, 16384)]
# 8 warps hold a row of 8192 in registers, 32 elements a thread, without spills
_TILES = {"*": Tile({"SPAN": 8192}, warps=8), "interpreter": Tile({"SPAN": 256})}
FORWARD = Kernel(
    rms_norm_forward_kernel,
    {
        **dict.fromkeys(("x", "residual", "weight", "y", "total"), "*bf16"),
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
        **dict.fromkeys(("dy", "dtotal", "s", "weight"), "*bf16"),
        "rstd": "*fp32",
        "dx": "*bf16",
        **dict.fromkeys(("M", "D", "stride_dy", "stride_dtotal", "stride_s"), "i32"),
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


def eager(
    x: Tensor, weight: Tensor, residual: Tensor | None, offset: float, eps: float = 1e-5
) -> Tensors:
    """(y,) or (y, s) as transformers' LlamaRMSNorm, with an offset GemmaRMSNorm, computes them."""
    s = x if residual is None else x + residual
    wide = s.to(torch.promote_types(s.dtype, torch.float32))
    n = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    y = (n * (offset + weight.to(n.dtype))).to(x.dtype) if offset else weight * n.to(x.dtype)
    return (y,) if residual is None else (y, s)


def _case(add: bool, offset: float, dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    random = torch.Generator().manual_seed(seed)
    shape = (dims["rows"], dims["D"])
    x, residual, dy, dtotal = (
        torch.randn(shape, generator=random).to(spec.device(), dtype) for _ in range(4)
    )
    weight = (torch.rand(shape[1], generator=random) + 0.5 - offset).to(spec.device(), dtype)

    def ours() -> Tensors:
        y, total, rstd = launch_forward(x, residual if add else None, weight, 1e-5, offset)
        s, more = (total, dtotal) if add else (x, None)
        dx, dweight = launch_backward(dy, more, s, weight, rstd, offset, True)
        return (y, total, dx, dweight) if add else (y, dx, dweight)

    def plain(dtype: torch.dtype) -> Tensors:
        a, w = (t.to(dtype, copy=True).requires_grad_() for t in (x, weight))
        out = eager(a, w, residual.to(dtype) if add else None, offset)
        grads = torch.autograd.grad(
            out, (a, w), tuple(g.to(dtype) for g in (dy, dtotal)[: len(out)])
        )
        return *(t.detach() for t in out), *grads

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """Llama's: y, dx and dweight."""
    return _case(False, 0.0, dims, dtype, seed)


def add_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """Gemma's with a residual: y, the sum, dx and dweight."""
    return _case(True, 1.0, dims, dtype, seed)


_DIMS = {"rows": (1, 7, 33, 70), "D": (31, 64, 100, 256, 300)}
_KERNELS = (FORWARD, BACKWARD, WEIGHT)
OPS = [
    Op("rms_norm", _KERNELS, case, _DIMS, launches=3),
    Op("add_rms_norm", _KERNELS, add_case, _DIMS, launches=3),
]
