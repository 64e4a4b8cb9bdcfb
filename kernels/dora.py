"""DoRA's row norm, straight from the frozen weight, dense or quantised.

    ‖Vₙ‖ = √ Σₖ (W[n, k] + s·Σᵣ B[n, r] A[r, k])²          g = m / ‖V‖

(Liu et al. 2024, "DoRA", arXiv 2402.09353, equation 5). A program takes BLOCK_N rows, walks over K
and adds up squares, so neither W + sBA nor a 16-bit copy of a quantised W is ever held: one launch,
which reads W once. The layer itself is lora.py's with the gain g. As section 4.3 of the paper asks,
the norm is a constant for the gradient; m's comes through g.

Not covered: dropout. With it PEFT multiplies W by the dropped input a second time; `patch` leaves
such layers to PEFT while they train.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference, spec
from .lora import lora_linear
from .lora_launch import WEIGHTS_AS, weight_signature
from .spec import Case, Dims, Kernel, Op, Tensors, Tile
from .weight import NF4, Int4, Weight, weight_tile


@triton.jit
def row_norm_kernel(
    w, s0, s1, s2, s3, a, b, norm,
    N, K, R, stride_w, scale,
    FORMAT: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr, RANK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_N norms."""
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    total = tl.zeros((BLOCK_N, 1), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = (k0 + tl.arange(0, BLOCK_K))[None, :]
        v = weight_tile(w, s0, s1, s2, s3, n, k0, N, K, stride_w, FORMAT, BLOCK, DOUBLE, BLOCK_K)
        v = v.to(tl.float32)
        for r0 in range(0, R, RANK):
            c = r0 + tl.arange(0, RANK)[None, :]
            r = r0 + tl.arange(0, RANK)[:, None]
            bt = tl.load(b + n * R + c, mask=(n < N) & (c < R), other=0.0).to(tl.float32)
            at = tl.load(a + r * K + k, mask=(r < R) & (k < K), other=0.0).to(tl.float32)
            v = tl.dot(bt * scale, at, v, input_precision="ieee")
        total += tl.sum(v * v, 1)[:, None]
    tl.store(norm + n, tl.sqrt(total), mask=n < N)


def launch_row_norm(w: Weight, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """‖W + s·B A‖ of each row, float32 [N]."""
    (N, R), K = b.shape, a.shape[1]
    w = w if w.tiled else Weight.of(w.dense(torch.float32))
    norm = torch.empty(N, dtype=torch.float32, device=b.device)
    ROW_NORM[w.format].launch(
        lambda t: (triton.cdiv(N, t["BLOCK_N"]),),
        *w.pointers(), a, b, norm, N, K, R, w.data.stride(0), scale, **w.constants(), RANK=16,
    )  # fmt: skip
    return norm


def cpu_row_norm(w: Weight, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """As `launch_row_norm` (in float64 when A is)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.addmm(w.dense(wide), b.to(wide), a.to(wide), alpha=scale).norm(dim=1)


@torch.library.custom_op("trivet::dora_row_norm", mutates_args=(), device_types="cpu")
def row_norm_op(
    w: Tensor, state: list[Tensor], format: str, block: int, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """‖W + s·B A‖ of each row [N]; no gradient."""
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return cpu_row_norm(weight, a, b, scale)


@row_norm_op.register_kernel("cuda")
def _(w, state, format, block, a, b, scale):
    weight = Weight(w, state, format, block, (b.shape[0], a.shape[1]))
    return launch_row_norm(weight, a, b, scale)


@row_norm_op.register_fake
def _(w, state, format, block, a, b, scale):
    return a.new_empty(b.shape[0], dtype=torch.promote_types(a.dtype, torch.float32))


def dora_linear(
    x: Tensor,
    weight: Tensor | NF4 | Int4 | Weight,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    magnitude: Tensor,
    scale: float,
) -> Tensor:
    """m/‖W + s·B A‖ ∘ (x (W + s·B A)ᵀ) + bias, differentiable in x, A, B, m [N] and bias.

    Raises ValueError as `lora_linear` does.
    """
    w = Weight.of(weight)
    norm = row_norm_op(w.data, w.state, w.format, w.block, a.detach(), b.detach(), scale)
    return lora_linear(x, w, bias, a, b, scale, gain=magnitude / norm)


ROW_NORM = {
    format: Kernel(
        row_norm_kernel,
        {**weight_signature(*types), "a": "*fp32", "b": "*fp32", "norm": "*fp32",
         "N": "i32", "K": "i32", "R": "i32", "stride_w": "i32", "scale": "fp32"},
        tiles={
            "*": Tile({"BLOCK_N": 32, "BLOCK_K": 64}, 4, 2),
            "interpreter": Tile({"BLOCK_N": 32, "BLOCK_K": 32}),
        },
        constants=({**constants, "RANK": 16},),
        label=f"row_norm_kernel {format}",
    )
    for format, (types, constants) in WEIGHTS_AS.items()
}  # fmt: skip


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    N, K, R = (dims[name] for name in "NKR")
    draw = torch.Generator().manual_seed(seed)
    w = (torch.randn(N, K, generator=draw) / K**0.5).to(dtype).to(spec.device())
    a, b = (torch.randn(s, generator=draw).to(w.device) / 4 for s in ((R, K), (N, R)))

    def ours() -> Tensors:
        return (launch_row_norm(Weight.of(w), a, b, 0.5),)

    def eager() -> Tensors:
        return (reference.row_norm(w.float(), a, b, 0.5),)

    return Case(ours, eager, lambda: (reference.row_norm(w.double(), a.double(), b.double(), 0.5),))


OP = Op(
    "dora_row_norm",
    tuple(ROW_NORM.values()),
    case,
    dims={"N": (1, 31, 64, 97), "K": (1, 17, 64, 100), "R": (4, 16, 40)},
    launches=1,
)
