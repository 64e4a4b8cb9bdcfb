"""The gates that a shared mistake cannot pass, on hand-made figures: each at its edge.

Run: pytest tests/unit/test_independence.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivet.config.recipe import Recipe
from trivet.evaluate.parity import Row, compare
from trivet.plugins import BACKENDS
from trivet.records.parity import ParityTable
from trivet.records.score import Metric, Score
from trivet.records.stock import Invariance, StockCheck

ROWS = 100
HELD: dict[str, Any] = {"rows": ROWS, "same": ROWS, "answers": ROWS, "equal": ROWS}
HELD |= {"max_abs_diff": 1e-6, "tolerances": 0.01, "metric": "accuracy", "value": 0.5}
ALONE: dict[str, Any] = {"rows": 32, "batch": 0.1, "order": 0.1, "left": None, "max_abs_diff": 1e-6}


def table(
    folder: Path, stock: dict[str, Any], alone: dict[str, Any], **gates: float
) -> ParityTable:
    """fp32 that holds, and int8 with these figures, .25 away from it, on all but 10 rows equal."""
    tree = {"name": "t", "data": {"source": "x"}, "tune": {}, "gates": gates}
    recipe = Recipe.model_validate(tree | {"gates": {"onnx_int8_points": 100} | gates})
    logits = np.tile([1.0, 0.0], (ROWS, 1)).astype(np.float32)
    rows = []
    for name, own, beside in (("onnx-fp32", {}, {}), ("onnx-int8", stock, alone)):
        place = folder / name
        place.mkdir(parents=True)
        np.save(place / "logits.npy", logits)
        half = Metric(name="accuracy", value=0.5)
        score = Score(metric=half, second=half, rows=ROWS, ms_per_row=1, threads=1, machine="")
        check, invariance = StockCheck(**HELD | own), Invariance(**ALONE | beside)
        rows.append(Row(BACKENDS[name], score, place, check, invariance))
        logits = logits + np.float32(0.125)
        logits[:10] = [0.875, 1.125]
    return compare(recipe, "t-1", rows, None, {})


def test_what_holds_is_silent(tmp_path: Path) -> None:
    assert table(tmp_path, {}, {}).promoted
    ties = table(tmp_path / "ties", {"ties": 100}, {"batch": 1.0})
    assert ties.promoted and "Trivet" not in ties.stages[1].measured


def test_int8_may_lose_to_rounding_what_it_loses_anyway_and_no_more(tmp_path: Path) -> None:
    """Its distance from float32 is 1.125 here, and 90 of 100 answers are equal."""
    other = {"same": 20, "equal": 90, "max_abs_diff": 1.125}
    assert table(tmp_path / "0", other, {"batch": 900.0, "max_abs_diff": 1.125}).promoted
    for n, (stock, alone) in enumerate(
        [
            (other | {"equal": 89}, {}),
            (other | {"max_abs_diff": 1.126}, {}),
            (other | {"failure": "KeyError"}, {}),
            ({}, {"batch": 900.0, "max_abs_diff": 1.126}),
        ]
    ):
        result = table(tmp_path / f"{n + 1}", stock, alone)
        assert [r.backend for r in result.refused] == ["onnx-int8"]


@pytest.mark.parametrize(("least", "promoted"), [(1.0, False), (0.99, True), (0.991, False)])
def test_the_gate_is_a_share_of_rows(least: float, promoted: bool, tmp_path: Path) -> None:
    one = {"same": 99, "equal": 80, "max_abs_diff": 3.0}
    result = table(tmp_path, one, {}, stock_agreement=least)
    assert result.promoted == promoted
    if not promoted:
        words = result.refused[0]
        assert "without Trivet 99 of 100 rows are the same" in words.measured
        assert "verify.py" in words.gate


@pytest.mark.parametrize(
    ("alone", "words"),
    [
        ({"batch": 2.0}, "in a batch by 2"),
        ({"order": 1.01}, "in another order by 1.01"),
        ({"left": float("nan")}, "padded on the left by nan"),
    ],
)
def test_a_row_that_depends_on_others_is_refused(
    alone: dict[str, Any], words: str, tmp_path: Path
) -> None:
    result = table(tmp_path, {}, alone | {"max_abs_diff": 2.0})
    assert words in result.refused[0].measured


def test_the_records_read_what_they_wrote(tmp_path: Path) -> None:
    for record in (
        StockCheck(rows=2, failure="it fell"),
        StockCheck(**HELD | {"max_abs_diff": float("inf"), "tolerances": float("inf")}),
        Invariance(**ALONE, note="why"),
    ):
        record.write(tmp_path)
        assert type(record).read(tmp_path) == record
