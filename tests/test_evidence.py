"""The record of what is known of the kernels, what is written from it, the bench without a GPU.
Run: .venv/bin/pytest tests/test_evidence.py
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trivet.kernels.evidence import TARGET, compulsory, ours
from trivet.kernels.peers import PEERS, QUANTISED_PEERS, Moved, Shape, count
from typer.testing import CliRunner

from trivet import UserError
from trivet.flows import cli
from trivet.kernels import bench, evidence, lora_launch, offline, report, spec

BIG, LONG, FEW = evidence.SHAPES


@pytest.mark.parametrize(
    "name, forward, backward",
    [
        ("PEFT", (7, 1444, 135), (10, 1782, 0)),
        ("PEFT, 16-bit adapters", (5, 638, 0), (7, 773, 0)),
        ("PEFT, dropout 0.1", (10, 2384, 269), (11, 2184, 0)),
        ("two GEMMs", (3, 370, 0), (7, 640, 0)),
    ],
)
def test_what_others_move(name: str, forward: tuple[int, ...], backward: tuple[int, ...]) -> None:
    for moved, expected in zip(PEERS[name](BIG), (forward, backward), strict=True):
        assert (moved.launches, round(moved.bytes / 1e6), round(moved.saved / 1e6)) == expected


def test_a_count_by_hand() -> None:
    """A view is no launch; an expanded tensor is read once; a sum in place reads what it writes."""
    x, y = (torch.empty(4, 8, device="meta") for _ in range(2))
    moved, _ = count(lambda: y.T.add_(x.T[:, :1].expand(8, 4)))
    assert moved == Moved(1, (8 + 32 + 32) * 4, 0)


def test_the_least_that_a_layer_moves() -> None:
    at = Shape(3, 5, 7, 2)
    x, w, a, b, y = 3 * 5 * 2, 5 * 7 * 2, 2 * 5 * 4, 7 * 2 * 4, 3 * 7 * 2
    assert compulsory(at, "forward") == x + w + a + b + y
    assert compulsory(at, "backward") == y + x + w + 2 * (a + b) + x


def test_ours_moves_each_byte_once_while_everything_fits_into_the_cache() -> None:
    at = Shape(256, 256, 256)
    h = 2 * at.M * at.R
    assert ours(at, "forward", {}) == Moved(1, compulsory(at, "forward") + h, h)


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], int]:
    """Tiles of what ships on an H100, but 1024 long along the sum, so that a walk takes seconds.

    Programs to an SM as `trivet kernels docs` finds them by compiling.
    """
    found = {}
    for table, along in ((lora_launch.FORWARD, "BLOCK_K"), (lora_launch.DX, "BLOCK_N")):
        for format, programs in (("dense", 2), ("nf4", 1)):
            kernel = table[format, True]
            tile = kernel.tile(TARGET)
            longer = dataclasses.replace(tile, sizes={**tile.sizes, along: 1024})
            patched = dataclasses.replace(kernel, tiles={"*": longer})
            monkeypatch.setitem(table, (format, True), patched)
            found[kernel.name, offline.described(longer)] = programs
    return found


@pytest.mark.parametrize(
    "at, way, most", [(BIG, "forward", 1.3), (BIG, "backward", 1.5), (LONG, "forward", 1.3)]
)
def test_the_order_of_the_tiles_keeps_what_is_read_twice_in_the_cache(
    resident: dict[tuple[str, str], int], at: Shape, way: str, most: float
) -> None:
    assert ours(at, way, resident).bytes <= most * compulsory(at, way)


@pytest.mark.parametrize(
    "at, bitsandbytes, by_hand", [(BIG, (3, 3), (2.8, 2.4)), (FEW, (6, 6), (6.7, 5.4))]
)
def test_nf4_moves_a_part_of_what_dequantising_first_moves(
    resident: dict[tuple[str, str], int],
    at: Shape,
    bitsandbytes: tuple[float, float],
    by_hand: tuple[float, float],
) -> None:
    """3 times fewer bytes, and 6 with few rows, than bitsandbytes. A hand-written sequence whose
    launches move each tensor once is itself within 2.9 times the least that the forward can move.
    """
    asked = dict(zip(QUANTISED_PEERS, (bitsandbytes, by_hand), strict=True))
    for place, way in enumerate(evidence.DIRECTIONS):
        moved = ours(at, way, resident, quantised=True).bytes
        for name, times in asked.items():
            assert times[place] * moved <= QUANTISED_PEERS[name](at)[place].bytes, name


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """A small record: what the compiler and the interpreter would say is made up."""
    made = [j.start() for j in offline.jobs()]
    return {
        "kernels": [vars(c) | {"registers": 7, "matrix": 3} for c in made],
        "faults": ["lora_forward_kernel spills"],
        "errors": [
            {"op": op.name, "ratio": 1.25, "bound": op.error, "dtype": "bfloat16",
             "dims": {"M": 70}, "launches": op.launches, "seed": 0}
            for op in spec.ops()
        ],
        "traffic": evidence.traffic((Shape(256, 256, 256),)),
        "versions": {"torch": "1", "triton": "2"},
    }  # fmt: skip


def test_documents_hold_every_operator_and_are_the_same_twice(
    tmp_path: Path, found: dict[str, Any]
) -> None:
    first = [path.read_bytes() for path in report.write(found, tmp_path)]
    assert first == [path.read_bytes() for path in report.write(found, tmp_path)]
    text = first[0].decode()
    for op in spec.ops():
        assert f"| {op.name} | {op.kernels[0].name.replace('_kernel', '')} | 1.25 |" in text
    assert "| ours | forward | 1 |" in text and "spills" in text and "modelled" in text


def test_the_table_and_the_refusal(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    monkeypatch.setattr(evidence, "collect", lambda progress: found)
    shown = CliRunner().invoke(cli.app, ["kernels"])
    assert shown.exit_code == 3
    assert "Refused: lora_forward_kernel spills" in shown.stderr
    assert "lora_linear" in shown.stdout and "7/3" in shown.stdout and "PEFT" in shown.stdout
    told = CliRunner().invoke(cli.app, ["kernels", "--json"])
    assert json.loads(told.stdout)["errors"] == found["errors"]


def test_the_errors_come_from_an_interpreter() -> None:
    (row,) = evidence.errors(only=("swiglu",))
    assert row["op"] == "swiglu" and 0 < row["ratio"] <= row["bound"]


def test_residency_is_that_of_a_kernels_first_variant() -> None:
    made = [
        offline.Compiled("k", v, TARGET, "t", True, False, 200, registers=r, warps=8)
        for v, r in (("a", 96), ("b", 200))
    ]
    assert [c.resident for c in made] == [2, 1]
    assert evidence.residency(made) == {("k", "t"): 2}


def test_without_a_gpu_the_bench_says_so_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="This machine has no GPU that torch can use"):
        bench.device()
    told = CliRunner().invoke(cli.app, ["kernels", "bench"])
    assert isinstance(told.exception, UserError)


def test_the_bench_checks_first_and_names_what_it_does_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the CPU, interpreted, a tiny layer, and one call for a median."""
    op = next(op for op in spec.ops() if op.name == "swiglu")
    monkeypatch.setattr(spec, "ops", lambda: [op])

    def once(step: bench.Step) -> float:
        step()
        return 1.5

    found = bench.run(models={"tiny": Shape(8, 64, 64)}, place="cpu", median=once)
    times = {r["layer"]: r for r in found["times"]}
    assert times["ours"]["ms"] == times["PEFT"]["ms"] == times["bitsandbytes"]["ms"] == 1.5
    assert "not installed" in times["unsloth"]["why"]
    assert [r["dtype"] for r in found["errors"]] == ["bfloat16", "float16", "float32"]
    assert "| tiny | M=8 K=64 N=64 r=16 | ours | 1.500 |" in bench.document(found)
    late = bench.run(seconds=0.0, models={"tiny": Shape(8, 64, 64)}, place="cpu", median=once)
    assert late["times"] == [] and "ours at tiny" in late["unreached"]


def test_nothing_is_timed_after_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "error_ratio", lambda op, dims, dtype: float("nan"))
    found = bench.run(models={"tiny": Shape(8, 64, 64)}, place="cpu")
    assert found["failed"] and found["times"] == []
    assert "nothing was timed" in bench.document(found)


def test_the_roof_of_a_known_device() -> None:
    at = Shape(8192, 4096, 4096)
    least = sum(evidence.flops(at, way) for way in evidence.DIRECTIONS) / 989e12
    assert bench.roof("NVIDIA H100 80GB HBM3", at) == pytest.approx(1e3 * least)
    assert bench.roof("Some other device", at) is None
