"""The parity table on hand-made logits: each figure against numpy by hand, each gate at its edge.

Run: pytest tests/unit/test_parity.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivet.backends.backend import Backend
from trivet.config.recipe import Recipe
from trivet.evaluate.parity import GateRefused, Row, check, compare
from trivet.plugins import BACKENDS
from trivet.records.parity import ParityTable, Stage
from trivet.records.score import Metric, Score, Vectors
from trivet.tasks.tally import Tally

ROWS = 600  # more than one of the chunks in which logits are compared
EQUAL = Vectors(rows=1000, equal=1000)


def recipe(task: str = "classify", **gates: float) -> Recipe:
    tree: dict[str, Any] = {"name": "t", "data": {"source": "x", "task": task}, "tune": {}}
    if task == "classify":
        tree["fpga"] = {"enabled": True}
    return Recipe.model_validate(tree | {"gates": gates})


class Table:
    """Builds rows with logits of one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []

    def add(
        self, name: str, logits: np.ndarray, value: float, vectors: Vectors | None = None
    ) -> "Table":
        place = self.folder / name
        place.mkdir()
        np.save(place / "logits.npy", logits.astype(np.float32))
        np.save(place / "counts.npy", np.ones(len(logits), int))
        Tally(np.full(len(logits), value), np.ones(len(logits))).save(place)
        score = Score(
            metric=Metric(name="accuracy", value=value),
            second=Metric(name="macro_f1", value=value / 2),
            rows=len(logits),
            ms_per_row=1.5,
            threads=2,
            machine="here",
            vectors=vectors,
        )
        self.rows.append(Row(BACKENDS[name], score, place))
        return self

    def compare(
        self, chosen: Recipe | None = None, missing: dict[Backend, str] | None = None
    ) -> ParityTable:
        return compare(chosen or recipe(), "run-1", self.rows, [], missing or {})


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


@pytest.fixture
def logits() -> np.ndarray:
    """[600, 3]; the answer of row i is i % 3, by a margin of 2 or more."""
    draw = np.random.default_rng(0)
    return draw.uniform(-1, 1, (ROWS, 3)) + 4 * np.eye(3)[np.arange(ROWS) % 3]


def flipped(logits: np.ndarray, rows: int) -> np.ndarray:
    """The last rows answer another class."""
    out = logits.copy()
    out[len(out) - rows :] = np.roll(out[len(out) - rows :], 1, axis=1)
    return out


def stage(result: ParityTable, name: str) -> Stage:
    return next(s for s in result.stages if s.backend == name)


def test_figures_are_those_of_numpy(table: Table, logits: np.ndarray) -> None:
    other = flipped(logits, 6)
    other[300, 0] -= 9.5  # in the second chunk; it was the answer
    table.add("adapter", logits, 0.9).add("merged", other, 0.895)
    first, second = table.compare().stages
    a, b = logits.astype(np.float32), other.astype(np.float32)
    assert (first.reference, first.delta, first.agreement, first.max_abs_diff) == (None,) * 4
    assert second.reference == "adapter"
    assert second.delta == pytest.approx(-0.005)
    assert second.agreement == (a.argmax(1) == b.argmax(1)).sum() / ROWS == 593 / ROWS
    assert second.max_abs_diff == np.abs(a - b).max()
    assert (second.bit_exact, second.rows_equal) == (None, None)
    assert (second.value, second.second.value, second.ms_per_row) == (0.895, 0.4475, 1.5)


@pytest.mark.parametrize(("rows", "holds"), [(6, True), (7, False)])
def test_an_agreement_holds_at_its_edge(
    rows: int, holds: bool, table: Table, logits: np.ndarray
) -> None:
    table.add("adapter", logits, 0.9).add("merged", flipped(logits, rows), 0.9)
    result = table.compare(recipe(merged_agreement=0.99))
    assert stage(result, "merged").passed == result.promoted == holds
    assert stage(result, "merged").gate == "agreement with adapter at least 0.99"
    if not holds:
        (refusal,) = result.refused
        assert (refusal.backend, refusal.value) == ("merged", 0.9)
        # 593 / 600, and Wilson's interval by hand: (p + z²/2n ± z √(p q / n + z²/4n²)) / (1 + z²/n)
        assert refusal.measured == "agreement 0.9883 (0.9761 to 0.9943)"


@pytest.mark.parametrize(("value", "holds"), [(0.92, True), (0.89, True), (0.8899, False)])
def test_points_are_lost_not_won(
    value: float, holds: bool, table: Table, logits: np.ndarray
) -> None:
    """0.9 - 0.89 is a little more than 0.01 in binary; the gate of one point holds all the same."""
    table.add("onnx-fp32", logits, 0.9).add("onnx-int8", flipped(logits, 60), value)
    result = table.compare(recipe(onnx_int8_points=1.0))
    assert stage(result, "onnx-int8").passed == holds
    assert stage(result, "onnx-int8").gate == "at most 1 point of accuracy below onnx-fp32"


@pytest.mark.parametrize(("value", "holds"), [(1.0, True), (1.01, True), (1.011, False)])
def test_of_a_loss_the_more_is_the_worse(
    value: float, holds: bool, table: Table, logits: np.ndarray
) -> None:
    table.add("onnx-fp32", logits, 1.0).add("onnx-int8", logits, value)
    result = table.compare(recipe("generate", onnx_int8_points=1.0))
    assert stage(result, "onnx-int8").passed == holds and result.lower_is_better


@pytest.mark.parametrize(
    ("moved", "vectors", "holds"),
    [(0, 1000, True), (1, 1000, False), (0, 999, False)],
)
def test_a_bit_exact_stage_is_equal_on_every_row_and_every_vector(
    moved: int, vectors: int, holds: bool, table: Table, logits: np.ndarray
) -> None:
    """The answers stay the same; one logit moves by its last bit."""
    other = logits.astype(np.float32)
    fixed = other.copy()
    for row in range(moved):
        other[row, 2] = np.nextafter(other[row, 2], np.float32(9))
    table.add("student-fixed", fixed, 0.9)
    table.add("hls-csim", other, 0.9, Vectors(rows=1000, equal=vectors))
    result = table.compare()
    exact = stage(result, "hls-csim")
    assert exact.bit_exact == exact.passed == result.promoted == holds
    assert (exact.rows_equal, exact.agreement) == (ROWS - moved, 1.0)
    assert f"{vectors:,} of 1,000 vectors equal" in exact.measured


def test_a_backend_without_answers_is_refused_by_name(table: Table, logits: np.ndarray) -> None:
    table.add("student-fixed", logits, 0.9)
    missing = {BACKENDS["hls-csim"]: "g++ ended with 1", BACKENDS["student-float"]: "no room"}
    result = table.compare(missing=missing)
    assert not result.promoted and [s.backend for s in result.stages] == ["student-fixed"]
    assert [r.backend for r in result.refused] == ["hls-csim", "student-float"]
    first = result.refused[0]
    assert first.value is None and first.measured == "no answers: g++ ended with 1"
    assert first.gate == "logits equal to student-fixed on every row and every random vector"
    with pytest.raises(GateRefused, match="run-1 is not promoted. hls-csim: no answers: g\\+\\+"):
        check(result)


def test_a_stage_falls_back_to_the_nearest_before_it_that_is_there(
    table: Table, logits: np.ndarray
) -> None:
    """merged is not in the run: onnx-fp32 is compared with adapter, and int8 with onnx-fp32."""
    near, far = flipped(logits, 3), flipped(logits, 30)
    table.add("adapter", logits, 0.9).add("onnx-fp32", near, 0.9).add("onnx-int8", far, 0.9)
    result = table.compare()
    assert [s.reference for s in result.stages] == [None, "adapter", "onnx-fp32"]
    assert stage(result, "onnx-fp32").agreement == 597 / ROWS
    assert stage(result, "onnx-int8").agreement == 573 / ROWS


def test_two_stages_of_one_reference_are_both_compared_with_it(
    table: Table, logits: np.ndarray
) -> None:
    table.add("merged", logits, 0.9)
    table.add("student-float", flipped(logits, 60), 0.8).add("onnx-fp32", logits, 0.9)
    result = table.compare(recipe(student_points=10.0))
    assert [s.reference for s in result.stages] == [None, "merged", "merged"]
    assert result.promoted and stage(result, "student-float").measured == "10.00 points ± 0.00 lost"


@pytest.mark.parametrize(
    ("task", "value", "holds"),
    [
        ("classify", 0.8, True),
        ("classify", 0.79, False),
        ("generate", 0.8, True),
        ("generate", 0.81, False),
    ],
)
def test_min_value_is_of_the_first_stage_alone(
    task: str, value: float, holds: bool, table: Table, logits: np.ndarray
) -> None:
    worse = 0.7 if task == "classify" else 0.9
    table.add("onnx-fp32", logits, value).add("onnx-int8", logits, worse)
    result = table.compare(recipe(task, min_value=0.8, onnx_int8_points=50.0))
    assert stage(result, "onnx-fp32").passed == result.promoted == holds
    assert stage(result, "onnx-int8").passed
    side = "least" if task == "classify" else "most"
    assert stage(result, "onnx-fp32").gate == f"accuracy at {side} 0.8"


def test_without_min_value_the_first_stage_has_no_gate(table: Table, logits: np.ndarray) -> None:
    result = table.add("merged", logits, 0.0).compare()
    assert result.promoted and (result.stages[0].gate, result.stages[0].measured) == ("", "")


def test_a_note_stands_where_targets_are_compared(table: Table, logits: np.ndarray) -> None:
    assert table.add("student-float", logits, 0.9).compare().notes == []
    notes = table.add("student-fixed", logits, 0.9).add("adapter", logits, 0.9).compare().notes
    assert len(notes) == 2 and any("distilled student" in note for note in notes)
