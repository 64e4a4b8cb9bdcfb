"""What the rotary embedding is verified by: transformers' arithmetic and its gradients."""

import torch
from torch import Tensor

from trivet.kernels.ops import kernel
from trivet.kernels.ops.rope.formula import eager
from trivet.kernels.ops.rope.triton import ROPE, launch
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """q and k turned, and the gradients of both, for views as attention makes them."""
    random = torch.Generator().manual_seed(seed)
    B, S, H, half = dims["batch"], dims["positions"], dims["heads"], dims["half"]

    def draw(heads: int) -> Tensor:
        shape = (B, S, heads, 2 * half + dims["rest"])
        return torch.randn(shape, generator=random).to(kernel.device(), dtype).transpose(1, 2)

    q, dq, k, dk = draw(H), draw(H), draw(max(1, H // 3)), draw(max(1, H // 3))
    angles = (6.3 * torch.rand(1, S, half, generator=random)).repeat(1, 1, 2)
    cos, sin = (f(angles).to(kernel.device(), dtype) for f in (torch.cos, torch.sin))

    def ours() -> Tensors:
        return *launch(q, k, cos, sin, False), *launch(dq, dk, cos, sin, True)

    def plain(dtype: torch.dtype) -> Tensors:
        a, b = (x.to(dtype, copy=True).requires_grad_() for x in (q, k))
        out = eager(a, b, cos.to(dtype), sin.to(dtype))
        grads = torch.autograd.grad(out, (a, b), (dq.to(dtype), dk.to(dtype)))
        return *(x.detach() for x in out), *grads

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


OPS = [
    Op(
        "rope",
        (ROPE,),
        case,
        {
            "batch": (1, 2),
            "positions": (3, 9),
            "heads": (1, 3, 9),
            "half": (8, 24, 32),
            "rest": (0, 5),
        },
        launches=2,
    )
]
