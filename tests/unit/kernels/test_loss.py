"""Cross-entropy without the logits: what is held, what is dropped, what is refused.

Error, races, repeats and launches are tested for all operators in test_kernels.py.
Run: .venv/bin/pytest tests/unit/kernels/test_loss.py
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import profile

import trivet.kernels.verify.interpreter  # noqa: F401  mends its bfloat16 on import
from trivet.kernels.ops.loss import linear_cross_entropy, op
from trivet.kernels.ops.loss.cpu import cpu_losses
from trivet.kernels.ops.loss.triton import launch_losses


def draw(rows: int, D: int, V: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, D, generator=random).to(dtype).requires_grad_()
    head = torch.randn(V, D, generator=random).to(dtype)
    targets = torch.randint(V, (rows,), generator=random)
    targets[1::4] = -1
    return hidden, head, targets


@pytest.fixture
def four_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that makes chunks of four rows of 100 words."""
    monkeypatch.setitem(op.BUDGET, "cpu", 400)


def test_it_is_the_cross_entropy(four_rows: None) -> None:
    hidden, head, targets = draw(21, 8, 100)
    ours = linear_cross_entropy(hidden, head, targets)
    (dours,) = torch.autograd.grad(2 * ours, hidden)
    plain = F.cross_entropy(F.linear(hidden, head), targets, ignore_index=-1)
    (dplain,) = torch.autograd.grad(2 * plain, hidden)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(dours, dplain)


def test_gradient_is_the_losss_slope(four_rows: None) -> None:
    hidden, head, targets = draw(9, 5, 100, torch.float64)
    assert torch.autograd.gradcheck(lambda h: linear_cross_entropy(h, head, targets), hidden)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_and_kernel_agree(dtype: torch.dtype, gradient: bool) -> None:
    logits = torch.randn(5, 130, generator=torch.Generator().manual_seed(1)).mul(4).to(dtype)
    targets = torch.tensor([0, 129, 64, 63, 7])
    results = []
    for losses_of in (launch_losses, cpu_losses):
        z = logits.clone()
        results.append((losses_of(z, targets, gradient), z))
    (ours, ours_z), (plain, plain_z) = results
    torch.testing.assert_close(ours, plain)
    if gradient:  # without it what becomes of the logits is nobody's concern
        torch.testing.assert_close(ours_z, plain_z)


@pytest.mark.parametrize("losses_of", [launch_losses, cpu_losses])
def test_huge_logits_do_not_overflow(losses_of: op.Losses) -> None:
    z = torch.tensor([[3e4, -3e4, 0.0], [-3e4, -3e4, -3e4]])
    losses = losses_of(z, torch.tensor([1, 0]), True)
    torch.testing.assert_close(losses, torch.tensor([6e4, 1.0986123]))
    torch.testing.assert_close(z, torch.tensor([[1.0, -1.0, 0.0], [-2 / 3, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_of_all_rows_are_never_held(dtype: torch.dtype, four_rows: None) -> None:
    hidden, head, targets = draw(400, 8, 100, dtype)
    whole = 300 * 100 * dtype.itemsize  # the rows that have a target

    def largest(step: object) -> int:
        with profile(profile_memory=True) as profiler:
            step().backward()  # type: ignore[operator]
        return max(event.self_cpu_memory_usage for event in profiler.events() or ())

    plain = largest(
        lambda: F.cross_entropy(F.linear(hidden, head).float(), targets, ignore_index=-1)
    )
    assert plain >= whole
    assert largest(lambda: linear_cross_entropy(hidden, head, targets)) < whole / 4


def test_two_products_a_chunk_and_one_in_evaluation(four_rows: None) -> None:
    hidden, head, targets = draw(21, 8, 100)
    chunks = -(-int((targets >= 0).sum()) // 4)

    def products(h: Tensor) -> int:
        with profile() as profiler:
            linear_cross_entropy(h, head, targets)
        return sum(event.name == "aten::mm" for event in profiler.events() or ())

    assert products(hidden) == 2 * chunks
    assert products(hidden.detach()) == chunks
    with torch.no_grad():
        assert products(hidden) == chunks


def test_rows_without_a_target_are_not_looked_at() -> None:
    hidden, head, targets = draw(9, 8, 50)
    spoilt = hidden.detach().clone()
    spoilt[targets == -1] = float("nan")
    spoilt.requires_grad_()
    ours = linear_cross_entropy(spoilt, head, targets)
    ours.backward()
    assert spoilt.grad is not None
    assert torch.equal(ours, linear_cross_entropy(hidden, head, targets))
    assert torch.equal(spoilt.grad[targets == -1], torch.zeros(2, 8))
    assert spoilt.grad.isfinite().all() and spoilt.grad.any()


def test_without_any_target_loss_and_gradient_are_zero() -> None:
    hidden, head, _ = draw(3, 8, 50)
    ours = linear_cross_entropy(hidden, head, torch.full((3,), -100), ignore_index=-100)
    ours.backward()
    assert ours == 0 and hidden.grad is not None and not hidden.grad.any()


def test_autocast_gives_the_products_its_dtype() -> None:
    hidden, head, targets = draw(9, 8, 50)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, head, targets)
    bf16 = linear_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets)
    assert ours.dtype == torch.float32 and torch.equal(ours, bf16)
    assert not torch.equal(ours, linear_cross_entropy(hidden, head, targets))


def test_the_operator_is_well_registered() -> None:
    hidden, head, targets = draw(5, 8, 50)
    torch.library.opcheck(op.loss_op, (hidden, head, targets, -1, True))
    torch.library.opcheck(op.loss_op, (hidden.detach(), head, targets, -1, False))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"head": torch.ones(50, 8, requires_grad=True)}, "freeze it"),
        ({"hidden": torch.ones(2, 3, 8)}, "flatten the batch"),
        ({"head": torch.ones(50, 7)}, "[V, D] are needed"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "one for each row"),
        ({"targets": torch.zeros(5, dtype=torch.int32)}, "int64 [5]"),
        ({"targets": torch.tensor([0, 1, 50, 2, -1])}, "from 0 to 50 and the head has 50"),
        ({"targets": torch.tensor([0, 1, -100, 2, -1])}, "ignore_index, -1"),
        ({"head": torch.ones(50, 8, device="meta")}, "head is on meta"),
        ({"targets": torch.zeros(5, dtype=torch.int64, device="meta")}, "targets is on meta"),
        ({"hidden": torch.ones(8, 5).t()}, "hidden.contiguous()"),
        ({"hidden": torch.ones(5, 8, dtype=torch.int64)}, "floating-point"),
    ],
)
def test_bad_input_is_refused_with_a_reason(change: dict[str, Tensor], says: str) -> None:
    hidden, head, targets = draw(5, 8, 50)
    with pytest.raises(ValueError) as refusal:
        linear_cross_entropy(**({"hidden": hidden, "head": head, "targets": targets} | change))
    assert says in str(refusal.value)
