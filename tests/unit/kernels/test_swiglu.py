"""SwiGLU: separate and fused forms, what is saved, views, what is refused.

Error, races, repeats and launches are tested for all operators in test_kernels.py.
Run: .venv/bin/pytest tests/unit/kernels/test_swiglu.py
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import trivet.kernels.verify.interpreter  # noqa: F401  mends its bfloat16 on import
from trivet.kernels.ops.swiglu import op, swiglu, swiglu_fused
from trivet.kernels.ops.swiglu.cpu import cpu_backward, cpu_forward
from trivet.kernels.ops.swiglu.formula import halves
from trivet.kernels.ops.swiglu.triton import launch_backward, launch_forward


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=random).to(dtype).requires_grad_()


def test_gradient_is_the_slope() -> None:
    gate_up = draw(2, 3, 10, dtype=torch.float64)
    assert torch.autograd.gradcheck(swiglu_fused, gate_up)
    assert torch.autograd.gradcheck(lambda x: swiglu(*halves(x)), gate_up)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_the_models_compute(dtype: torch.dtype) -> None:
    gate_up = draw(2, 5, 66, dtype=dtype)
    gate, up = gate_up.chunk(2, -1)
    plain = up * F.silu(gate)  # as Phi3MLP
    dy = torch.randn(plain.shape).to(dtype)
    (dplain,) = torch.autograd.grad(plain, gate_up, dy)
    for ours in (swiglu_fused(gate_up), swiglu(*halves(gate_up))):
        assert torch.equal(ours, plain) and ours.is_contiguous()
        torch.testing.assert_close(torch.autograd.grad(ours, gate_up, dy)[0], dplain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_and_kernel_agree_on_strided_rows(dtype: torch.dtype) -> None:
    gate_up, dy = draw(3, 7, 90, dtype=dtype).detach(), draw(3, 7, 45, dtype=dtype).detach()
    results = []
    for forward, backward in (
        (launch_forward, launch_backward),
        (cpu_forward, cpu_backward),
    ):
        dgate_up = torch.empty_like(gate_up)
        backward(dy, *halves(gate_up), *halves(dgate_up))
        results.append((forward(*halves(gate_up)), dgate_up))
    for kernel, cpu in zip(*results, strict=True):
        torch.testing.assert_close(kernel, cpu)


def test_only_gate_and_up_are_saved_and_halves_are_not_copied() -> None:
    gate_up = draw(4, 20)
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x.untyped_storage().data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        swiglu(*halves(gate_up))
        swiglu_fused(gate_up)
    assert saved == [gate_up.untyped_storage().data_ptr()] * 3


def test_an_expanded_gradient_is_understood() -> None:
    gate_up = draw(3, 8)
    ours = torch.autograd.grad(swiglu_fused(gate_up).sum(), gate_up)[0]
    gate, up = gate_up.chunk(2, -1)
    torch.testing.assert_close(ours, torch.autograd.grad((F.silu(gate) * up).sum(), gate_up)[0])
    dy = torch.ones(()).expand(3, 4)  # stride 0, as the sum's backward makes it
    dgate_up = torch.empty_like(gate_up)
    launch_backward(dy, *halves(gate_up.detach()), *halves(dgate_up))
    torch.testing.assert_close(dgate_up, ours)


def test_no_rows_give_no_rows() -> None:
    gate_up = torch.empty(0, 8, requires_grad=True)
    y = swiglu_fused(gate_up)
    y.sum().backward()
    assert y.shape == (0, 4) and gate_up.grad is not None and gate_up.grad.shape == (0, 8)


def test_the_operators_are_well_registered() -> None:
    torch.library.opcheck(op.swiglu_op, (draw(3, 5), draw(3, 5)))
    torch.library.opcheck(op.swiglu_op, halves(draw(2, 3, 10)))
    torch.library.opcheck(op.swiglu_fused_op, (draw(2, 3, 10),))


@pytest.mark.parametrize(
    ("gate", "up", "says"),
    [
        (torch.ones(2, 4), torch.ones(2, 5), "gate has shape torch.Size([2, 4])"),
        (torch.ones(2, 4), torch.ones(2, 4).double(), "up has torch.float64"),
        (torch.ones(2, 4), torch.ones(2, 4, device="meta"), "up is on meta and gate on cpu"),
        (torch.ones(4, 2).t(), torch.ones(2, 4), "call gate.contiguous() first"),
        (torch.tensor(1.0), torch.tensor(1.0), "[..., N]"),
        (torch.ones(2, 4).int(), torch.ones(2, 4).int(), "floating-point"),
    ],
)
def test_bad_input_is_refused_with_a_reason(gate: Tensor, up: Tensor, says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        swiglu(gate, up)
    assert says in str(refusal.value)


def test_an_odd_fused_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="so it is even"):
        swiglu_fused(torch.ones(2, 5))
