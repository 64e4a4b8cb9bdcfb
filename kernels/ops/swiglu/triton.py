"""The Triton kernels of SwiGLU (formula.py), and how they are launched.

Not covered: rows that are not contiguous are copied.
"""

from collections.abc import Callable, Mapping

import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.rows import rows


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
