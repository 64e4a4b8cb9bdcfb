"""RoPE: transformers' functions as oracles, strides, the way back, what is refused.

Error, races, repeats and launches are tested for all operators in test_kernels.py.
Run: .venv/bin/pytest tests/unit/kernels/test_rope.py
"""

import pytest
import torch
from gradient_checks import HK, B, D, H, S, check_rope_slopes
from gradient_checks import rope_inputs as draw
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as phi3

import trivet.kernels.verify.interpreter  # noqa: F401  mends its bfloat16 on import
from trivet.kernels.ops.rope import rope
from trivet.kernels.ops.rope.cpu import cpu as rope_cpu
from trivet.kernels.ops.rope.op import rope_op
from trivet.kernels.ops.rope.triton import launch


def gradients(out: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    weights = [torch.arange(float(t.numel())).view(t.shape).sin() for t in out]
    return torch.autograd.grad(sum((t * w).sum() for t, w in zip(out, weights, strict=True)), into)


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("rotary", [D, 10])
@pytest.mark.parametrize("unsqueeze_dim", [1, 2])
def test_it_is_what_the_models_compute(unsqueeze_dim: int, rotary: int, batch: int) -> None:
    q, k, cos, sin = draw(rotary=rotary, batch=batch)
    if unsqueeze_dim == 2:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    plain = (llama if rotary == D else phi3)(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
    ours = rope(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(gradients(ours, (q, k)), gradients(plain, (q, k)), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_both_orders_are_slopes() -> None:
    """Along one direction; the whole Jacobians are in tests/compile/test_gradient_sweep.py."""
    check_rope_slopes(fast=True)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("rotary", [D, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_and_kernel_agree(dtype: torch.dtype, rotary: int, back: bool) -> None:
    tensors = [t.detach() for t in draw(dtype, rotary, B)]
    kernel, cpu = launch(*tensors, back), rope_cpu(*tensors, back)
    for a, b in zip(kernel, cpu, strict=True):
        # in bf16 the CPU rounds twice, the kernel once
        wide = {"rtol": 2**-6, "atol": 2**-6} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(a, b, **wide)
        assert a.stride() == b.stride()


def test_turning_back_undoes_turning() -> None:
    q, k, *_ = (t.detach() for t in draw())
    angles = torch.rand(1, S, D // 2).repeat(1, 1, 2)
    rotated = launch(q, k, angles.cos(), angles.sin(), False)
    for a, b in zip(launch(*rotated, angles.cos(), angles.sin(), True), (q, k), strict=True):
        torch.testing.assert_close(a, b)


def test_results_lie_in_memory_as_the_projections_do() -> None:
    for out in rope(*draw()):
        assert out.transpose(1, 2).is_contiguous()


def test_cos_and_sin_get_no_gradient_and_are_all_that_is_saved() -> None:
    q, k, cos, sin = draw()
    cos, sin = cos.requires_grad_(), sin.requires_grad_()
    saved: list[int] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t.data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = rope(q, k, cos, sin)
    assert saved == [cos.data_ptr(), sin.data_ptr()]
    assert torch.autograd.grad(out[0].sum(), (q, cos), allow_unused=True)[1] is None


def test_wide_angles_keep_the_dtype_of_queries() -> None:
    q, k, _, _ = draw(torch.bfloat16)
    _, _, cos, sin = draw()
    plain = llama(q.float(), k.float(), cos, sin)
    for a, b in zip(rope(q, k, cos, sin), plain, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=2**-6, atol=2**-6)


def test_the_operator_is_well_registered() -> None:
    q, k, cos, sin = draw(rotary=10)
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    torch.library.opcheck(rope_op, (q, k, cos, sin, False))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": torch.ones(B, HK, S + 1, D)}, "must agree in batch"),
        ({"k": torch.ones(B, HK, S, D).double()}, "k has torch.float64"),
        ({"k": torch.ones(B, HK, S, D, device="meta")}, "k is on meta and q on cpu"),
        ({"q": torch.ones(B, H, D, S).mT}, "call q.contiguous() first"),
        ({"q": torch.ones(B, S, D)}, "[B, H, S, D]"),
        ({"sin": torch.ones(1, S, 8)}, "sin has torch.Size([1, 5, 8])"),
        ({"cos": torch.ones(3, S, D), "sin": torch.ones(3, S, D)}, "of 1 or q's batch"),
        ({"cos": torch.ones(1, S, 7), "sin": torch.ones(1, S, 7)}, "must be even"),
        ({"cos": torch.ones(1, S, 18), "sin": torch.ones(1, S, 18)}, "at most 16"),
        ({"unsqueeze_dim": 0}, "unsqueeze_dim is 0"),
    ],
)
def test_bad_input_is_refused_with_a_reason(change: dict[str, Tensor], says: str) -> None:
    q, k, cos, sin = draw()
    with pytest.raises(ValueError) as refusal:
        rope(**({"q": q, "k": k, "cos": cos, "sin": sin} | change))
    assert says in str(refusal.value)
