"""Gradients and agreements that the unit tier takes once or along one random direction, and the
compile tier's sweep in full.
"""

from typing import Any

import torch

from trivet.kernels.ops import int4, nf4
from trivet.kernels.ops.norm import cpu as norm_cpu
from trivet.kernels.ops.norm import triton as norm_triton
from trivet.kernels.ops.qlora import qlora_linear
from trivet.kernels.ops.rope import rope

STATES = {
    "nf4": lambda w: nf4.quantise(w, double=False),
    "nf4 double": nf4.quantise,
    "int4": int4.quantise,
    "int4 asymmetric": lambda w: int4.quantise(w, block=64, symmetric=False),
}
B, S, H, HK, D = 2, 5, 6, 2, 16  # of the rotary embedding's queries and keys


def qlora_inputs(dtype: torch.dtype, M: int = 6, N: int = 7, K: int = 64) -> dict[str, Any]:
    torch.manual_seed(0)
    shapes = {"x": (M, K), "a": (4, K), "b": (N, 4)}
    leaves = {n: torch.randn(s, dtype=dtype, requires_grad=True) for n, s in shapes.items()}
    return leaves | {"w": torch.randn(N, K)}


def check_qlora_slope(name: str, fast: bool) -> None:
    """`fast`: along one random direction."""
    layer = qlora_inputs(torch.float64)
    state = STATES[name](layer.pop("w"))

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return qlora_linear(tensors[0], state, None, *tensors[1:], 1.5)

    assert torch.autograd.gradcheck(call, tuple(layer.values()), fast_mode=fast)


def rope_inputs(
    dtype: torch.dtype = torch.float32, rotary: int = D, batch: int = 1
) -> tuple[torch.Tensor, ...]:
    """q, k as views of one fused projection, and cos, sin of halves that differ."""
    random = torch.Generator().manual_seed(0)
    fused = torch.randn(B, S, (H + HK) * D, generator=random).to(dtype).requires_grad_()
    q, k = fused.split((H * D, HK * D), -1)
    heads = (q.view(B, S, H, D).transpose(1, 2), k.view(B, S, HK, D).transpose(1, 2))
    cos, sin = torch.rand(2, batch, S, rotary, generator=random).to(dtype)
    return *heads, cos, sin


def check_rope_slopes(fast: bool) -> None:
    """Of both orders."""
    q, k, cos, sin = rope_inputs(torch.float64, rotary=10)
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    call = lambda q, k: rope(q, k, cos, sin)  # noqa: E731
    assert torch.autograd.gradcheck(call, (q, k), fast_mode=fast)
    assert torch.autograd.gradgradcheck(call, (q, k), fast_mode=fast)


def check_norm_cpu_and_kernel(dtype: torch.dtype, add: bool, offset: float) -> None:
    def draw(*shape: int, seed: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    shape = (2, 33, 300)  # longer than the interpreter's tile, and two groups of rows
    x, residual, dy, ds_out = (draw(*shape, seed=seed) for seed in range(4))
    weight = draw(300, seed=5)
    results = []
    for forward, backward in (
        (norm_triton.launch_forward, norm_triton.launch_backward),
        (norm_cpu.cpu_forward, norm_cpu.cpu_backward),
    ):
        y, s_out, rstd = forward(x, residual if add else None, weight, 1e-5, offset)
        s, more = (s_out, ds_out) if add else (x, None)
        results.append((y, s_out, rstd, *backward(dy, more, s, weight, rstd, offset, True)))
    assert results[0][1].numel() == (x.numel() if add else 0)
    for kernel, plain in zip(*results, strict=True):
        # two units of bf16's last place: the order of a sum may move a rounding
        torch.testing.assert_close(
            kernel, plain, **({"rtol": 2**-6, "atol": 2**-6} if dtype == torch.bfloat16 else {})
        )
