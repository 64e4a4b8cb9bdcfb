"""Every operator's promises in one case; the checker, the interpreter and a launch themselves.

Other cases are drawn in tests/compile/test_operator_sweep.py.
Run: .venv/bin/pytest tests/unit/kernels/test_operators.py
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from operator_promises import OPS, check_operator

from trivet.kernels.ops import kernel as launching
from trivet.kernels.ops.kernel import Kernel, NoDevice, Tile
from trivet.kernels.verify.interpreter import Access, Checker, narrow, observe_accesses, widen


@pytest.fixture(autouse=True)
def poison():
    """Uninitialised memory holds NaN (or the largest integer)."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPS)
def test_an_operator_keeps_its_promises(name: str) -> None:
    op = OPS[name]
    check_operator(
        op, {key: sizes[len(sizes) // 2] for key, sizes in op.dims.items()}, torch.bfloat16
    )


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
    kernel = Kernel(_shift, {}, {"*": Tile({"BLOCK": 16})})
    with (
        observe_accesses(Checker()),
        pytest.raises(Exception, match=says) if says else nullcontext(),
    ):
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
    kernel = Kernel(fn, {}, {"*": Tile({"BLOCK": 16})})
    with observe_accesses(Checker()), pytest.raises(AssertionError, match=says):
        kernel.launch(lambda t: (3,), torch.zeros(48, dtype=torch.int32))


def test_bfloat16_in_the_interpreter_is_torchs() -> None:
    values = torch.randn(10_000) * 2.0 ** torch.randint(-20, 20, (10_000,))
    values[:3] = torch.tensor([float("inf"), 1 + 2**-8, 1 + 3 * 2**-8])  # ties go to even
    bits = narrow(values.numpy())
    assert torch.equal(torch.from_numpy(bits), values.bfloat16().view(torch.uint16))
    assert torch.equal(torch.from_numpy(widen(bits)), values.bfloat16().float())
    assert torch.from_numpy(widen(narrow(torch.tensor([float("nan")]).numpy()))).isnan().all()


def test_without_a_gpu_a_launch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernel = Kernel(_same_place, {}, {"*": Tile({"BLOCK": 16})})
    with pytest.raises(NoDevice, match="no GPU: use the operator"):
        kernel.launch(lambda t: (1,), torch.zeros(16, dtype=torch.int32))


def test_observers_see_the_dots() -> None:
    class Dots(Access):
        flops = 0

        def dot(self, m: int, n: int, k: int) -> None:
            self.flops += 2 * m * n * k

    op = OPS["lora_linear"]
    dims = {"M": 32, "N": 64, "K": 32, "R": 16, "bias": 0, "gain": 0, "dropout": 0}
    with observe_accesses(Dots()) as dots:
        op.case(dims, torch.float32, 0).ours()
    tile = lambda m, n, k: 2 * m * n * k  # noqa: E731
    forward = tile(32, 64, 32) + tile(32, 16, 32) + tile(32, 64, 16)
    dx = tile(32, 32, 64) + tile(32, 16, 64) + tile(32, 32, 16)
    weights = tile(32, 16, 32) + 2 * tile(32, 16, 32)
    assert dots.flops == forward + dx + weights
