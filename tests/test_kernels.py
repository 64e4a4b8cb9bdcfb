"""What every kernel owes, on shapes, dtypes and strides that hypothesis draws, in the interpreter.

Its error is at most twice what plain torch makes at the same dtype, against float64; each element
of its outputs is written; it touches nothing outside its tensors and no two programs race; a repeat
is bit-equal; it launches as often as it says.
Run: .venv/bin/pytest tests/test_kernels.py
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from trivet.kernels.interpreter import Access, Checker, narrow, watching, widen

from trivet.kernels import spec

OPS = {op.name: op for op in spec.ops()}


@pytest.fixture(autouse=True)
def poisoned():
    """Uninitialised memory holds NaN (or the largest integer)."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Launches(Checker):
    count = 0

    def begin(self, kernel: spec.Kernel, args: tuple[Any, ...]) -> None:
        self.count += 1
        super().begin(kernel, args)


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_kernel_keeps_its_word(name: str, data: st.DataObject) -> None:
    op = OPS[name]
    dims = {key: data.draw(st.sampled_from(sizes), key) for key, sizes in op.dims.items()}
    dtype = data.draw(st.sampled_from(op.dtypes), "dtype")
    case = op.case(dims, dtype, 0)
    with watching(Launches()) as seen:
        first = case.ours()
    assert seen.count == op.launches
    assert all(torch.isfinite(t).all() for t in first if t.is_floating_point())
    for one, two in zip(first, case.ours(), strict=True):
        assert torch.equal(one, two)
    if op.error == 0:
        for ours, theirs in zip(first, case.eager(), strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        assert spec.error_ratio(op, dims, dtype) <= op.error


@triton.jit
def _shift(x, y, count, first, to, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + first + at, mask=at < count)
    tl.store(y + to + at, value, mask=at < count)


@pytest.mark.parametrize(
    "first, to, says",
    [(0, 0, ""), (1, 0, "reads 1 elements outside"), (-2, 0, "reads 2"), (0, 3, "writes 3")],
)
def test_the_checker_sees_what_lies_outside(first: int, to: int, says: str) -> None:
    kernel = spec.Kernel(_shift, {}, {"*": spec.Tile({"BLOCK": 16})})
    with watching(Checker()), pytest.raises(Exception, match=says) if says else nullcontext():
        kernel.launch(lambda t: (3,), torch.ones(40), torch.ones(40), 40, first, to)


@triton.jit
def _same_place(y, BLOCK: tl.constexpr):
    tl.store(y + tl.arange(0, BLOCK), tl.program_id(0))


@triton.jit
def _neighbour(y, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    value = tl.load(y + (i + 1) % 3 * BLOCK + tl.arange(0, BLOCK))
    tl.store(y + i * BLOCK + tl.arange(0, BLOCK), value)


@pytest.mark.parametrize("fn, says", [(_same_place, "two programs write"), (_neighbour, "reads")])
def test_the_checker_sees_a_race(fn: Any, says: str) -> None:
    kernel = spec.Kernel(fn, {}, {"*": spec.Tile({"BLOCK": 16})})
    with watching(Checker()), pytest.raises(AssertionError, match=says):
        kernel.launch(lambda t: (3,), torch.zeros(48, dtype=torch.int32))


def test_bfloat16_in_the_interpreter_is_torchs() -> None:
    values = torch.randn(10_000) * 2.0 ** torch.randint(-20, 20, (10_000,))
    values[:3] = torch.tensor([float("inf"), 1 + 2**-8, 1 + 3 * 2**-8])  # ties go to even
    bits = narrow(values.numpy())
    assert torch.equal(torch.from_numpy(bits), values.bfloat16().view(torch.uint16))
    assert torch.equal(torch.from_numpy(widen(bits)), values.bfloat16().float())
    assert torch.from_numpy(widen(narrow(torch.tensor([float("nan")]).numpy()))).isnan().all()


def test_without_a_gpu_a_launch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernel = spec.Kernel(_same_place, {}, {"*": spec.Tile({"BLOCK": 16})})
    with pytest.raises(RuntimeError, match="no GPU: use the operator"):
        kernel.launch(lambda t: (1,), torch.zeros(16, dtype=torch.int32))


def test_the_observers_are_told_of_dots() -> None:
    class Dots(Access):
        total = 0

        def dot(self, m: int, n: int, k: int) -> None:
            self.total += 2 * m * n * k

    op = OPS["lora_linear"]
    dims = {"M": 32, "N": 64, "K": 32, "R": 16, "bias": 0, "gain": 0, "dropout": 0}
    with watching(Dots()) as seen:
        op.case(dims, torch.float32, 0).ours()
    tile = lambda m, n, k: 2 * m * n * k  # noqa: E731
    forward = tile(32, 64, 32) + tile(32, 16, 32) + tile(32, 64, 16)
    dx = tile(32, 32, 64) + tile(32, 16, 64) + tile(32, 32, 16)
    weights = tile(32, 16, 32) + 2 * tile(32, 16, 32)
    assert seen.total == forward + dx + weights
