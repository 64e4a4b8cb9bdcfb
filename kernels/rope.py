"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of queries and keys in one launch.

    y₁ = x₁ ∘ cos₁ − x₂ ∘ sin₁        x₁, x₂ the halves of a head's first R entries
    y₂ = x₂ ∘ cos₂ + x₁ ∘ sin₂        the entries from R on (Phi-3's partial rotary) pass through

Backward is the same with (sin₁, sin₂) replaced by (−sin₂, −sin₁), the rotation by −θ; so the
gradient is the operator itself and cos and sin are all that is saved. They get no gradient. A
program turns all heads of one token, so that cos and sin too are read once. Strides of batch, head
and position are free: the transposed views that attention makes are read in place, and the results
have the same order in memory. Arithmetic is float32 with one rounding, where eager has three.

Not covered: interleaved pairs (GLM, GPT-J), attention scaling outside cos and sin.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import spec
from .rows import agree, check, operator
from .spec import Case, Dims, Kernel, Op, Tensors, Tile


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
            kept = tl.load(x + h * stride_x + j, mask=passing, other=0.0)
            tl.store(y + h * stride_y + j, kept, mask=passing)


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
    q, k = _dense(q), _dense(k)
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


def cpu(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """As `launch`, in plain torch: three passes and no temporary."""
    R = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, second = sin.chunk(2, -1)
    if back:
        first, second = -second, -first

    def turned(x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.mul(x[..., :R], cos, out=y[..., :R])
        y[..., : R // 2].addcmul_(x[..., R // 2 : R], first, value=-1)
        y[..., R // 2 : R].addcmul_(x[..., : R // 2], second)
        y[..., R:] = x[..., R:]
        return y

    return turned(_dense(q)), turned(_dense(k))


def _dense(x: Tensor) -> Tensor:
    """A gradient may come expanded from a sum; the last dimension is then not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


@operator("trivet::rope")
def rope_op(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    return (launch if q.is_cuda else cpu)(q, k, cos, sin, back)


rope_op.register_fake(lambda q, k, *_: (torch.empty_like(_dense(q)), torch.empty_like(_dense(k))))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    *_, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Any, ...]:
    return *rope_op(dq, dk, *ctx.saved_tensors, not ctx.back), None, None, None


rope_op.register_autograd(_backward, setup_context=_save)


def rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """As transformers' `apply_rotary_pos_emb`; the results have q's and k's dtype.

    q [B, H, S, D] and k [B, HK, S, D], or with `unsqueeze_dim=2` [B, S, H, D] and [B, S, HK, D];
    cos and sin [B or 1, S, R], R ≤ D even. Raises ValueError when that is not so, a last dimension
    is not contiguous, q and k differ in dtype, or devices differ.
    """
    check(q=q, k=k, cos=cos, sin=sin)
    agree("dtype", q=q, k=k)
    agree("shape", cos=cos, sin=sin)
    if unsqueeze_dim not in (1, 2):
        raise ValueError(f"unsqueeze_dim is {unsqueeze_dim}: heads are dimension 1 or 2")
    if unsqueeze_dim == 2:
        turned = rope(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        return turned[0].transpose(1, 2), turned[1].transpose(1, 2)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, cos and sin {tuple(cos.shape)}"
    if q.dim() != 4 or k.dim() != 4 or cos.dim() != 3:
        raise ValueError(f"{shapes}: [B, H, S, D], [B, HK, S, D] and [B or 1, S, R] are needed")
    B, _, S, D = q.shape
    if (k.shape[0], *k.shape[2:]) != (B, S, D):
        raise ValueError(f"{shapes}: q and k must agree in batch, positions and head dimension")
    if cos.shape[0] not in (1, B) or cos.shape[1] != S:
        raise ValueError(f"{shapes}: cos and sin must be of 1 or q's batch, and of q's positions")
    if cos.shape[2] > D or cos.shape[2] % 2:
        raise ValueError(f"{shapes}: R, cos's last dimension, must be even and at most {D}")
    return rope_op(q, k, cos.detach(), sin.detach(), False)


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


def eager(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As transformers computes it, Phi-3's partial rotary included."""
    R = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]

    def turned(x: Tensor) -> Tensor:
        x, rest = x[..., :R], x[..., R:]
        first, second = x.chunk(2, -1)
        y = x * cos + torch.cat((-second, first), -1) * sin
        return torch.cat((y, rest), -1)

    return turned(q), turned(k)


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """q and k turned, and the gradients of both, for views as attention makes them."""
    random = torch.Generator().manual_seed(seed)
    B, S, H, half = dims["batch"], dims["positions"], dims["heads"], dims["half"]

    def draw(heads: int) -> Tensor:
        shape = (B, S, heads, 2 * half + dims["rest"])
        return torch.randn(shape, generator=random).to(spec.device(), dtype).transpose(1, 2)

    q, dq, k, dk = draw(H), draw(H), draw(max(1, H // 3)), draw(max(1, H // 3))
    angles = (6.3 * torch.rand(1, S, half, generator=random)).repeat(1, 1, 2)
    cos, sin = (f(angles).to(spec.device(), dtype) for f in (torch.cos, torch.sin))

    def ours() -> Tensors:
        return *launch(q, k, cos, sin, False), *launch(dq, dk, cos, sin, True)

    def plain(dtype: torch.dtype) -> Tensors:
        a, b = (x.to(dtype, copy=True).requires_grad_() for x in (q, k))
        out = eager(a, b, cos.to(dtype), sin.to(dtype))
        grads = torch.autograd.grad(out, (a, b), (dq.to(dtype), dk.to(dtype)))
        return *(x.detach() for x in out), *grads

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


OP = Op(
    "rope",
    (ROPE,),
    case,
    {"batch": (1, 2), "positions": (3, 9), "heads": (1, 3, 9), "half": (8, 24, 32), "rest": (0, 5)},
    launches=2,
)
