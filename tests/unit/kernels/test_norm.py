"""RMS normalisation: transformers' own modules as oracles, the residual, what is saved.

Error, races, repeats and launches are tested for all operators in test_kernels.py.
Run: .venv/bin/pytest tests/unit/kernels/test_norm.py
"""

from typing import Any

import pytest
import torch
from gradient_checks import check_norm_cpu_and_kernel
from torch import Tensor
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import trivet.kernels.verify.interpreter  # noqa: F401  mends its bfloat16 on import
from trivet.kernels.ops.norm import cpu, rms_norm
from trivet.kernels.ops.norm.formula import eager
from trivet.kernels.ops.norm.op import rms_norm_op
from trivet.kernels.ops.norm.triton import launch_backward, launch_forward


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).to(dtype).requires_grad_()


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("add", [False, True])
def test_gradient_is_the_slope(add: bool, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CACHED", 14)  # blocks of two rows
    x, residual, weight = (draw(*s, dtype=torch.float64) for s in ((5, 7), (5, 7), (7,)))

    def f(x: Tensor, residual: Tensor, weight: Tensor) -> Any:
        return rms_norm(x, weight, 1e-5, residual if add else None, offset)

    assert torch.autograd.gradcheck(f, (x, residual, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("module", "offset"), [(LlamaRMSNorm, 0.0), (GemmaRMSNorm, 1.0)])
def test_rounding_is_transformers(module: type, offset: float, dtype: torch.dtype) -> None:
    x, residual = draw(3, 9, 64, dtype=dtype), draw(3, 9, 64, dtype=dtype, seed=1)
    layer = module(64, eps=1e-5).to(dtype)
    layer.weight.data += draw(64, seed=2).detach().to(dtype)
    y, s_out = rms_norm(x, layer.weight, 1e-5, residual, offset)
    assert torch.equal(s_out, x + residual)
    # the sums of squares differ in order: rounding to bf16 hides it but for a few
    assert (y == layer(x + residual)).float().mean() > (0.99 if dtype == torch.bfloat16 else 0.5)
    torch.testing.assert_close(y, layer(x + residual))


@pytest.mark.parametrize(
    "dtype, add, offset", [(torch.float32, True, 1.0), (torch.bfloat16, False, 0.0)]
)
def test_cpu_and_kernel_agree(dtype: torch.dtype, add: bool, offset: float) -> None:
    """All combinations are in tests/compile/test_gradient_sweep.py."""
    check_norm_cpu_and_kernel(dtype, add, offset)


def test_all_uses_of_the_sum_reach_both_inputs() -> None:
    x, residual, weight = draw(4, 6), draw(4, 6, seed=1), draw(6, seed=2)
    for of in (lambda y, s: y.sum(), lambda y, s: s.square().sum(), lambda y, s: (y * s).sum()):
        ours = torch.autograd.grad(
            of(*rms_norm(x, weight, 1e-5, residual)), (x, residual, weight), allow_unused=True
        )
        plain = torch.autograd.grad(
            of(*eager(x, weight, residual, 0.0)), (x, residual, weight), allow_unused=True
        )
        for a, b in zip(ours, plain, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)


def test_a_frozen_weight_costs_no_launch_and_gets_no_gradient() -> None:
    x, weight = draw(4, 6), draw(6, seed=1).detach()
    y, _, rstd = launch_forward(x.detach(), None, weight, 1e-5, 0.0)
    assert launch_backward(y, None, x.detach(), weight, rstd, 0.0, False)[1].numel() == 0
    rms_norm(x, weight, 1e-5).sum().backward()
    assert x.grad is not None and weight.grad is None


def test_only_input_and_a_number_a_row_are_saved() -> None:
    x, weight = draw(4, 64, dtype=torch.bfloat16), torch.ones(64, dtype=torch.bfloat16)
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        rms_norm(x, weight, 1e-5)
    for known in (x, weight):
        del saved[known.data_ptr()]
    assert sum(saved.values()) == 4 * 4


def test_no_rows_give_no_rows() -> None:
    x, weight = torch.empty(0, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    y = rms_norm(x, weight, 1e-5)
    assert isinstance(y, Tensor)
    y.sum().backward()
    assert y.shape == (0, 8) and weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize("add", [False, True])
def test_the_operators_are_well_registered(add: bool) -> None:
    x, residual, weight = draw(3, 5), draw(3, 5, seed=1), draw(5, seed=2)
    torch.library.opcheck(rms_norm_op, (x, residual if add else None, weight, 1e-5, 1.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": torch.ones(5)}, "[6]"),
        ({"weight": torch.ones(1, 6)}, "weight has shape (1, 6)"),
        ({"weight": torch.ones(6, device="meta")}, "weight is on meta and x on cpu"),
        ({"residual": torch.ones(4, 5)}, "residual has torch.Size([4, 5])"),
        ({"residual": torch.ones(4, 6).double()}, "residual has torch.float64"),
        ({"x": torch.ones(6, 4).t()}, "call x.contiguous() first"),
        ({"x": torch.tensor(1.0)}, "[..., N]"),
        ({"x": torch.ones(4, 0)}, "N > 0"),
        ({"x": torch.ones(4, 6).int()}, "floating-point"),
    ],
)
def test_bad_input_is_refused_with_a_reason(change: dict[str, Tensor], says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        rms_norm(**({"x": torch.ones(4, 6), "weight": torch.ones(6), "eps": 1e-5} | change))
    assert says in str(refusal.value)
