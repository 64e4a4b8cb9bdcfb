"""The Triton kernel of DoRA's row norm (formula.py), for each format of the frozen weight.

Not covered: a weight whose NF4 blocks straddle rows: its float32 copy is taken.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.lora.launch import WEIGHTS_AS, weight_signature
from trivet.kernels.ops.weight import Weight, weight_tile


@triton.jit
def row_norm_kernel(
    w, s0, s1, s2, s3, a, b, norm,
    N, K, R, stride_w, scale,
    FORMAT: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr, RANK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_N norms."""
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    accum = tl.zeros((BLOCK_N, 1), tl.float32)
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
        accum += tl.sum(v * v, 1)[:, None]
    tl.store(norm + n, tl.sqrt(accum), mask=n < N)


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
