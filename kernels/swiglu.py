"""The gate of the feed-forward block, SwiGLU (Shazeer 2020, arXiv 2002.05202), both ways.

    y = silu(g) ∘ u        silu(g) = g·σ(g)        g, u, y [rows, N]
    dg = dy ∘ u ∘ σ(g)·(1 + g·(1 − σ(g)))          du = dy ∘ silu(g)

Saved for backward: g and u, not silu(g), which is computed anew: a third less than PyTorch's
autograd keeps. Each launch reads and writes every byte once. g and u may be the two halves of one
tensor (Phi-3's `gate_up_proj`): rows keep their stride, nothing is copied, and `swiglu_fused`
writes one gradient of the fused shape. Arithmetic is float32 with one rounding at the end, where
eager rounds silu(g) first. The CPU's two in-place operations round as eager does.

Not covered: other gates (GeGLU), a bias, views whose last dimension is not contiguous.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from . import spec
from .rows import agree, check, operator, rows
from .spec import Case, Dims, Kernel, Op, Tensors, Tile


@triton.jit
def swiglu_forward_kernel(
    gate, up, y, M, N, stride_g, stride_u, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """A [ROWS, BLOCK] tile of y."""
    m = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    n = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (m < M) & (n < N)
    g = tl.load(gate + m * stride_g + n, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + m * stride_u + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + m * N + n, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward_kernel(
    dy, gate, up, dgate, dup, M, N, stride_y, stride_g, stride_u, stride_d,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A [ROWS, BLOCK] tile of dg and of du."""
    m = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    n = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (m < M) & (n < N)
    d = tl.load(dy + m * stride_y + n, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + m * stride_g + n, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + m * stride_u + n, mask=inside, other=0.0).to(tl.float32)
    sigma = tl.sigmoid(g)
    dg = d * u * sigma * (1.0 + g * (1.0 - sigma))
    tl.store(dgate + m * stride_d + n, dg.to(dgate.dtype.element_ty), mask=inside)
    tl.store(dup + m * stride_d + n, (d * g * sigma).to(dup.dtype.element_ty), mask=inside)


def _grid(M: int, N: int) -> Callable[[Mapping[str, int]], tuple[int, ...]]:
    return lambda t: (triton.cdiv(M, t["ROWS"]), triton.cdiv(N, t["BLOCK"]))


def launch_forward(gate: Tensor, up: Tensor) -> Tensor:
    """y, contiguous, in one launch."""
    y = gate.new_empty(gate.shape)
    g, u = rows(gate), rows(up)
    M, N = g.shape
    FORWARD.launch(_grid(M, N), g, u, y, M, N, g.stride(0), u.stride(0))
    return y


def launch_backward(dy: Tensor, gate: Tensor, up: Tensor, dgate: Tensor, dup: Tensor) -> None:
    """Write dg and du, whose rows have one stride, in one launch."""
    d, g, u, dg, du = (rows(t) for t in (dy, gate, up, dgate, dup))
    M, N = g.shape
    BACKWARD.launch(
        _grid(M, N), d, g, u, dg, du, M, N, d.stride(0), g.stride(0), u.stride(0), dg.stride(0)
    )


def cpu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """As `launch_forward`, in plain torch."""
    y = torch.ops.aten.silu.out(gate, out=gate.new_empty(gate.shape))
    return y.mul_(up)


def cpu_backward(dy: Tensor, gate: Tensor, up: Tensor, dgate: Tensor, dup: Tensor) -> None:
    """As `launch_backward`, in plain torch; dup holds dy ∘ u for a moment."""
    torch.mul(dy, up, out=dup)
    torch.ops.aten.silu_backward.grad_input(dup, gate, grad_input=dgate)
    torch.ops.aten.silu.out(gate, out=dup)
    dup.mul_(dy)


def halves(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the gate and the up half of Phi-3's fused tensor."""
    gate, up = gate_up.chunk(2, -1)
    return gate, up


def _forward(gate: Tensor, up: Tensor) -> Tensor:
    return (launch_forward if gate.is_cuda else cpu_forward)(gate, up)


def _backward(dy: Tensor, gate: Tensor, up: Tensor, dgate: Tensor, dup: Tensor) -> None:
    (launch_backward if gate.is_cuda else cpu_backward)(dy, gate, up, dgate, dup)


@operator("trivet::swiglu")
def swiglu_op(gate: Tensor, up: Tensor) -> Tensor:
    return _forward(gate, up)


@operator("trivet::swiglu_backward")
def swiglu_backward_op(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = gate.new_empty(gate.shape), gate.new_empty(gate.shape)
    _backward(dy, gate, up, dgate, dup)
    return dgate, dup


@operator("trivet::swiglu_fused")
def swiglu_fused_op(gate_up: Tensor) -> Tensor:
    return _forward(*halves(gate_up))


@operator("trivet::swiglu_fused_backward")
def swiglu_fused_backward_op(dy: Tensor, gate_up: Tensor) -> Tensor:
    dgate_up = gate_up.new_empty(gate_up.shape)
    _backward(dy, *halves(gate_up), *halves(dgate_up))
    return dgate_up


swiglu_op.register_fake(lambda gate, up: gate.new_empty(gate.shape))
swiglu_backward_op.register_fake(
    lambda dy, gate, up: (gate.new_empty(gate.shape), gate.new_empty(gate.shape))
)
swiglu_fused_op.register_fake(lambda x: x.new_empty(*x.shape[:-1], x.shape[-1] // 2))
swiglu_fused_backward_op.register_fake(lambda dy, x: x.new_empty(x.shape))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


swiglu_op.register_autograd(
    lambda ctx, dy: swiglu_backward_op(dy, *ctx.saved_tensors), setup_context=_save
)
swiglu_fused_op.register_autograd(
    lambda ctx, dy: swiglu_fused_backward_op(dy, *ctx.saved_tensors), setup_context=_save
)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ∘ up, [..., N], contiguous, of the same dtype.

    Raises ValueError when the two differ in shape, dtype or device, or their last dimension is
    missing or not contiguous.
    """
    check(gate=gate, up=up)
    agree("shape", "dtype", gate=gate, up=up)
    return swiglu_op(gate, up)


def swiglu_fused(gate_up: Tensor) -> Tensor:
    """silu(g) ∘ u of the halves g, u of `gate_up` [..., 2N]; its gradient is one such tensor.

    Raises ValueError when the last dimension is missing, odd or not contiguous.
    """
    check(gate_up=gate_up)
    if gate_up.shape[-1] % 2:
        raise ValueError(
            f"gate_up has shape {tuple(gate_up.shape)}: its last dimension holds the gate's and "
            "the up projection's columns, so it is even"
        )
    return swiglu_fused_op(gate_up)


FORWARD = Kernel(
    swiglu_forward_kernel,
    {
        **dict.fromkeys(("gate", "up", "y"), "*bf16"),
        **dict.fromkeys(("M", "N", "stride_g", "stride_u"), "i32"),
    },
    # 8 elements for each thread: one 16-byte access
    {"*": Tile({"ROWS": 2, "BLOCK": 512}), "interpreter": Tile({"ROWS": 8, "BLOCK": 32})},
)
BACKWARD = Kernel(
    swiglu_backward_kernel,
    {
        **dict.fromkeys(("dy", "gate", "up", "dgate", "dup"), "*bf16"),
        **dict.fromkeys(("M", "N", "stride_y", "stride_g", "stride_u", "stride_d"), "i32"),
    },
    FORWARD.tiles,
)


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """y, dg and du at random g, u and dy, the halves of one tensor as Phi-3 has them."""
    random = torch.Generator().manual_seed(seed)
    M, N = dims["rows"], dims["N"]
    gate_up = (2 * torch.randn(M, 2 * N, generator=random)).to(spec.device(), dtype)
    dy = torch.randn(M, N, generator=random).to(spec.device(), dtype)

    def ours() -> Tensors:
        dgate_up = torch.empty_like(gate_up)
        y = launch_forward(*halves(gate_up))
        launch_backward(dy, *halves(gate_up), *halves(dgate_up))
        return y, dgate_up

    def plain(x: Tensor) -> Tensors:
        x = x.clone().requires_grad_()
        gate, up = x.chunk(2, -1)
        y = F.silu(gate) * up
        return y.detach(), torch.autograd.grad(y, x, dy.to(x.dtype))[0]

    return Case(ours, lambda: plain(gate_up), lambda: plain(gate_up.double()))


OP = Op(
    "swiglu",
    (FORWARD, BACKWARD),
    case,
    {"rows": (1, 3, 97), "N": (1, 31, 33, 130)},
    launches=2,
)
