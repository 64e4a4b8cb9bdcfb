"""The Triton kernel of the rotary embedding (formula.py): all heads of a token in one program.

Not covered: a last dimension that is not contiguous is copied.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.rows import dense


@triton.jit
def turn(
    x, y, heads, stride_x, stride_y, cos1, cos2, sin1, sin2, half, D,
    HALF: tl.constexpr, REST: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """One token's heads of x into y."""
    i = tl.arange(0, HALF)[None, :]
    for h0 in range(0, heads, HEADS):
        h = (h0 + tl.arange(0, HEADS)).to(tl.int64)[:, None]
        inside = (h < heads) & (i < half)
        x1 = tl.load(x + h * stride_x + i, mask=inside, other=0.0).to(tl.float32)
        x2 = tl.load(x + h * stride_x + half + i, mask=inside, other=0.0).to(tl.float32)
        y1, y2 = x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2
        tl.store(y + h * stride_y + i, y1.to(y.dtype.element_ty), mask=inside)
        tl.store(y + h * stride_y + half + i, y2.to(y.dtype.element_ty), mask=inside)
        if REST > 0:
            j = 2 * half + tl.arange(0, REST)[None, :]
            passing = (h < heads) & (j < D)
            rest = tl.load(x + h * stride_x + j, mask=passing, other=0.0)
            tl.store(y + h * stride_y + j, rest, mask=passing)


@triton.jit
def rope_kernel(
    q, k, cos, sin, q_out, k_out, S, H, HK, half, D,
    q_b, q_h, q_s, k_b, k_h, k_s, qo_b, qo_h, qo_s, ko_b, ko_h, ko_s, cos_b, cos_s, sin_b, sin_s,
    BACK: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """All heads of one token, queries and keys."""
    b = (tl.program_id(0) // S).to(tl.int64)
    s = (tl.program_id(0) % S).to(tl.int64)
    i = tl.arange(0, HALF)[None, :]
    cos += b * cos_b + s * cos_s
    sin += b * sin_b + s * sin_s
    cos1 = tl.load(cos + i, mask=i < half, other=0.0).to(tl.float32)
    cos2 = tl.load(cos + half + i, mask=i < half, other=0.0).to(tl.float32)
    sin1 = tl.load(sin + i, mask=i < half, other=0.0).to(tl.float32)
    sin2 = tl.load(sin + half + i, mask=i < half, other=0.0).to(tl.float32)
    if BACK:
        sin1, sin2 = -sin2, -sin1
    turn(
        q + b * q_b + s * q_s, q_out + b * qo_b + s * qo_s, H, q_h, qo_h,
        cos1, cos2, sin1, sin2, half, D, HALF, REST, HEADS,
    )  # fmt: skip
    turn(
        k + b * k_b + s * k_s, k_out + b * ko_b + s * ko_s, HK, k_h, ko_h,
        cos1, cos2, sin1, sin2, half, D, HALF, REST, HEADS,
    )  # fmt: skip


def launch(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """q [B, H, S, D] and k [B, HK, S, D] turned, or turned back, in one launch."""
    B, H, S, D = q.shape
    q, k = dense(q), dense(k)
    cos, sin = cos.expand(B, -1, -1), sin.expand(B, -1, -1)
    half = cos.shape[-1] // 2
    out = torch.empty_like(q), torch.empty_like(k)
    strides = (n for x in (q, k, *out) for n in x.stride()[:3])
    ROPE.launch(
        lambda t: (B * S,),
        q, k, cos, sin, *out, S, H, k.shape[1], half, D,
        *strides, *cos.stride()[:2], *sin.stride()[:2],
        BACK=back, HALF=triton.next_power_of_2(half),
        REST=triton.next_power_of_2(D - 2 * half) if 2 * half < D else 0,
    )  # fmt: skip
    return out


_STRIDES = [f"{x}_{d}" for x in ("q", "k", "qo", "ko") for d in "bhs"]
ROPE = Kernel(
    rope_kernel,
    {
        **dict.fromkeys(("q", "k", "cos", "sin", "q_out", "k_out"), "*bf16"),
        **dict.fromkeys(("S", "H", "HK", "half", "D", *_STRIDES), "i32"),
        **dict.fromkeys(("cos_b", "cos_s", "sin_b", "sin_s"), "i32"),
    },
    {"*": Tile({"HEADS": 16}), "interpreter": Tile({"HEADS": 4})},
    (
        {"BACK": False, "HALF": 32, "REST": 0},  # SmolLM2, Llama 3.2 1B
        {"BACK": True, "HALF": 64, "REST": 0},  # Llama, Qwen, Mistral
        {"BACK": True, "HALF": 128, "REST": 0},  # Gemma
        {"BACK": False, "HALF": 64, "REST": 32},  # partial, as Phi-4-mini
    ),
)
