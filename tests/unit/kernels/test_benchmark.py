"""The benchmark without a GPU: what it says, what it checks first, what it does not reach.
Run: .venv/bin/pytest tests/unit/kernels/test_benchmark.py
"""

import pytest
import torch

from trivet.kernels.ops import kernel
from trivet.kernels.ops.kernel import NoDevice
from trivet.kernels.verify import benchmark, cases, layer_traffic
from trivet.kernels.verify.baselines import Shape


def test_without_a_gpu_the_bench_says_so_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoDevice, match="This machine has no GPU that torch can use"):
        benchmark.device()


def test_the_bench_checks_first_and_names_what_it_does_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the CPU, interpreted, a tiny layer, and one call for a median."""
    op = next(op for op in cases.ops() if op.name == "swiglu")
    monkeypatch.setattr(cases, "ops", lambda: [op])

    def once(step: benchmark.Step) -> float:
        step()
        return 1.5

    record = benchmark.run(models={"tiny": Shape(8, 64, 64)}, place="cpu", median=once)
    times = {r["layer"]: r for r in record["times"]}
    assert times["ours"]["ms"] == times["PEFT"]["ms"] == times["bitsandbytes"]["ms"] == 1.5
    assert "not installed" in times["unsloth"]["why"]
    assert [r["dtype"] for r in record["errors"]] == ["bfloat16", "float16", "float32"]
    assert "| tiny | M=8 K=64 N=64 r=16 | ours | 1.500 |" in benchmark.document(record)
    late = benchmark.run(seconds=0.0, models={"tiny": Shape(8, 64, 64)}, place="cpu", median=once)
    assert late["times"] == [] and "ours at tiny" in late["unreached"]


def test_nothing_is_timed_after_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "error_ratio", lambda op, dims, dtype: float("nan"))
    record = benchmark.run(models={"tiny": Shape(8, 64, 64)}, place="cpu")
    assert record["failed"] and record["times"] == []
    assert "nothing was timed" in benchmark.document(record)


def test_the_roof_of_a_known_device() -> None:
    at = Shape(8192, 4096, 4096)
    least = sum(layer_traffic.flops(at, way) for way in layer_traffic.DIRECTIONS) / 989e12
    assert benchmark.roof("NVIDIA H100 80GB HBM3", at) == pytest.approx(1e3 * least)
    assert benchmark.roof("Some other device", at) is None
