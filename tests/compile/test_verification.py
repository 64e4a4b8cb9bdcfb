"""The record of what is known of the kernels and what is written from it, and L2 figures at real
shapes.
Run: .venv/bin/pytest tests/compile/test_verification.py
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from trivet.kernels.hardware.gpus import MODELLED
from trivet.kernels.ops.lora import launch
from trivet.kernels.verify import cases, compile_matrix, layer_traffic, report, verification
from trivet.kernels.verify.baselines import QUANTISED_BASELINES, Shape
from trivet.kernels.verify.layer_traffic import compulsory, ours

BIG, LONG, FEW = layer_traffic.SHAPES


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], int]:
    """Tiles of what ships on an H100, but 1024 long along the sum, so that a trace takes seconds.

    Programs to an SM as compiling finds them.
    """
    programs_of = {}
    for table, along in ((launch.FORWARD, "BLOCK_K"), (launch.DX, "BLOCK_N")):
        for format, programs in (("dense", 2), ("nf4", 1)):
            kernel = table[format, True]
            tile = kernel.tile(MODELLED)
            longer = dataclasses.replace(tile, sizes={**tile.sizes, along: 1024})
            patched = dataclasses.replace(kernel, tiles={"*": longer})
            monkeypatch.setitem(table, (format, True), patched)
            programs_of[kernel.name, compile_matrix.describe(longer)] = programs
    return programs_of


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
    least = dict(zip(QUANTISED_BASELINES, (bitsandbytes, by_hand), strict=True))
    for place, way in enumerate(layer_traffic.DIRECTIONS):
        nbytes = ours(at, way, resident, quantised=True).bytes
        for name, times in least.items():
            assert times[place] * nbytes <= QUANTISED_BASELINES[name](at)[place].bytes, name


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """A small record: what the compiler and the interpreter would say is made up."""
    binaries = [j.start() for j in compile_matrix.jobs()]
    return {
        "kernels": [vars(c) | {"registers": 7, "matrix": 3} for c in binaries],
        "faults": ["lora_forward_kernel spills"],
        "errors": [
            {"op": op.name, "ratio": 1.25, "bound": op.error, "dtype": "bfloat16",
             "dims": {"M": 70}, "launches": op.launches, "seed": 0}
            for op in cases.ops()
        ],
        "traffic": layer_traffic.traffic((Shape(256, 256, 256),)),
        "versions": {"torch": "1", "triton": "2"},
    }  # fmt: skip


def test_documents_hold_every_operator_and_are_the_same_twice(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    first = [path.read_bytes() for path in report.write(record, tmp_path)]
    assert first == [path.read_bytes() for path in report.write(record, tmp_path)]
    text = first[0].decode()
    for op in cases.ops():
        assert f"| {op.name} | {op.kernels[0].name.replace('_kernel', '')} | 1.25 |" in text
    assert "| ours | forward | 1 |" in text and "spills" in text and "modelled" in text


def test_the_errors_come_from_an_interpreter() -> None:
    (row,) = verification.errors(only=("swiglu",))
    assert row["op"] == "swiglu" and 0 < row["ratio"] <= row["bound"]


def test_a_missing_package_is_named_before_minutes_are_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else name)
    monkeypatch.setattr(compile_matrix, "compile_all", lambda **_: pytest.fail("it compiled"))
    with pytest.raises(ModuleNotFoundError, match="peft is not installed") as refusal:
        verification.collect()
    assert refusal.value.name == "peft"
    verification.require("bitsandbytes")
