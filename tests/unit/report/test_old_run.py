"""The files of a real run of version 1 open, and its page can be written again.

Run: .venv/bin/pytest tests/unit/report/test_old_run.py
"""

import json
import shutil
from pathlib import Path

import pytest
from report_run import (
    boxes,
    make_run,
    page_of,
    words_of,
)

from trivet import UserError
from trivet.config.recipe import of_run
from trivet.records.card import Card
from trivet.records.chip import ChipFacts
from trivet.records.dataset import RunData
from trivet.records.lineage import Lineage
from trivet.records.parity import ParityTable
from trivet.records.score import Confusion, Curve, Metric, Vectors
from trivet.records.student import StudentFacts
from trivet.report import write

VERSION_1 = next((Path(__file__).parent / "version-1").iterdir())


def test_a_run_of_version_1_still_makes_its_page(tmp_path: Path) -> None:
    """The files of a real run, as they were written; the numbers are those of its own page."""
    run = Path(shutil.copytree(VERSION_1, tmp_path / VERSION_1.name))
    page = page_of(run)
    names = ["adapter", "merged", "onnx-fp32", "onnx-int8"]
    names += ["student-float", "student-fixed", "hls-csim", "alkaid", "rtl"]
    assert sorted(boxes(page, "")) == sorted(names)
    text = words_of(page)
    assert "onnx-int8 0.8267 0.8624 -0.0017 0.9867 0.43" in text
    assert "beats the strongest baseline (tf-idf + logistic regression" in text
    assert "baseline 0.6800 0.6539" in text
    assert "103 of 600 test rows got a wrong answer" in text
    assert "student of 16,927 parameters" in text and "7 cycles, 63 ns" in text
    assert "with a LoRA adapter of rank 16 on all linear layers" in text
    assert "150 train, 100 valid, 600 test, 4394 pool" in text


def test_each_record_of_version_1_opens() -> None:
    table = ParityTable.read(VERSION_1)
    assert [stage.reference for stage in table.stages[:5]] == [
        *(None, "adapter", "merged", "onnx-fp32", "merged")
    ]
    assert [stage.bit_exact for stage in table.stages] == [None] * 6 + [True] * 3
    assert {stage.target for stage in table.stages} == {"gpu", "cpu", "fpga"}
    (baseline,) = table.baselines
    assert baseline == table.floor and baseline.second == Metric(
        name="macro_f1", value=0.6538950525096456
    )
    assert baseline.difference and baseline.difference.value == table.stages[0].value - 0.68
    assert table.stages[-1].vectors == Vectors(rows=20_000, equal=20_000)
    facts = ChipFacts.read(VERSION_1)
    assert facts.student == StudentFacts.read(VERSION_1 / "student")
    assert facts.design and (facts.design.cycles, facts.design.interval) == (7, 1)
    assert facts.synth and facts.synth.clock and facts.synth.clock.mhz == 110.6
    data = RunData.read(VERSION_1)
    assert data.rows["train"] == 150 and data.card.labels["HassTurnOn"] == 525
    assert data.md5 == Lineage.read(VERSION_1).dvc_md5
    assert len(Curve.read(VERSION_1).points) == 76
    assert sum(map(sum, Confusion.read(VERSION_1).matrix)) == 600
    card = Card.read(VERSION_1 / "adapter")
    assert card.prompt == "Command: {text}. Intent:" and len(card.labels) == 31
    recipe = of_run(VERSION_1)
    assert recipe.tune and recipe.tune.epochs == 4 and recipe.gates.limit("student_points") == 6.0


def test_a_record_of_a_newer_version_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tree = json.loads((run / "parity.json").read_text())
    (run / "parity.json").write_text(json.dumps(tree | {"version": 99}))
    with pytest.raises(UserError, match="has version 99, and this Trivet reads up to 3"):
        write(run)
