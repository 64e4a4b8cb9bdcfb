"""The report says what the run's records say, and stays in one file.

Run: .venv/bin/pytest tests/unit/report/test_page.py
"""

import html
import json
import re
from pathlib import Path

import pytest
from report_run import (
    EVIL,
    EXAMPLE,
    METRIC,
    boxes,
    data,
    make_run,
    page_of,
    words_of,
)

from trivet.backends.backend import Backend, Session, Target, Usage
from trivet.backends.gate import Agreement
from trivet.plugins import BACKENDS
from trivet.records.chip import ChipFacts
from trivet.records.parity import ParityTable
from trivet.report import page, write


@pytest.mark.parametrize("task", list(METRIC))
def test_the_page_is_whole_and_holds_every_number(tmp_path: Path, task: str) -> None:
    run = make_run(tmp_path, task)
    page = page_of(run)
    table = ParityTable.read(run)
    assert table.promoted
    names = [stage.backend for stage in table.stages]
    assert sorted(boxes(page, "")) == sorted(names)
    assert not boxes(page, "bad")
    assert boxes(page, "ghost") == ["merged"] * (2 if task == "classify" else 1)
    text = words_of(page)
    for stage in table.stages:
        ends = f"{stage.low:.3f} to {stage.high:.3f}"
        assert f"{stage.backend} {stage.value:.4f} {ends} {stage.second.value:.4f}" in text
    for base in table.baselines:
        assert f"baseline {base.value:.4f} {base.low:.3f} to {base.high:.3f}" in text
    assert ("student of 10,303 parameters" in text) == (task == "classify")
    assert ("trivet chat" in text) == (task == "generate")
    if task == "classify":
        assert "4,321 of 216,960" in text and "104 MHz on LFE5U-25F" in text
        assert "synthesis for xcku5p-ffvb676-2-e has +8.0 %" in text and "2 cycles, 19 ns" in text
        assert "Vivado v.2025.1 3,999 1,234 0 0 250.5" in text and "No report of quartus" in text
        assert "other logits on 50 of 200 test rows and another answer on 10" in text
        assert text.count("200 of 200 20,000 of 20,000") == 3
    assert "c3a0b0e3d5d1f0a9e8b7c6d5e4f3a2b1.dir" in text


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    fetching = r"<(script|link|img|iframe|object|embed|base)\b|@import|url\(|\bsrc=|\bon\w+="
    assert not re.search(fetching, page, re.I)
    links = re.findall(r'https?://[^"<\s]*', page)
    assert links == ["http://127.0.0.1:4200/runs/flow-run/0192f0c2"]  # to follow, not to fetch
    assert page.count("href=") == 1  # the javascript: address is not one


def test_labels_are_text(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    assert EVIL not in page
    assert html.escape(EVIL, quote=False).split("'")[0] in page
    assert EVIL in words_of(page)


def test_a_refused_stage_is_red_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, damaged="onnx-int8")
    page = page_of(run)
    (refused,) = ParityTable.read(run).refused
    assert boxes(page, "bad") == ["onnx-int8"]
    assert page.count('class="foot bad"') == page.count('class="link bad"') == 1
    reason = f"onnx-int8 broke its gate. Measured: {refused.measured}. Gate: {refused.gate}."
    assert reason in words_of(page)
    assert "Promoted." not in page


def test_a_stage_whose_tool_failed_is_refused_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, failed="rtl")
    text = words_of(page_of(run))
    table = ParityTable.read(run)
    assert not table.promoted and "rtl" not in [stage.backend for stage in table.stages]
    assert "rtl broke its gate. Measured: no answers: verilator failed with 1." in text
    assert "simulated cycle by cycle 200 of 200" not in text


@pytest.mark.parametrize("wins", [True, False])
def test_a_baseline_that_is_as_good_is_said_to_be(tmp_path: Path, wins: bool) -> None:
    """14 rows of 200 that the baseline has wrong; Agresti and Min by hand: 1.96 × √(15 / 202 -
    (14 / 202)²) / √202 = .036, and McNemar's p = 2 / 2^14.
    """
    text = words_of(page_of(make_run(tmp_path, wins=wins)))
    assert ("The baseline is at least as good." in text) != wins
    words = (
        "beats the strongest baseline (TF-IDF + logistic regression, fitted on the same rows) by"
    )
    words += " 7.0 points ± 3.6 of accuracy (McNemar's p = 0.00012)."
    assert (words in text) == wins


def test_optional_files_may_be_absent(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for name in ("confusion", "fpga"):
        (run / f"{name}.json").unlink()
    text = words_of(page_of(run))
    assert "mixed up" not in text
    assert "What the chip runs" not in text


def test_the_hls_command_stands_where_the_script_is(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "hls" / "project").mkdir(parents=True)
    (run / "hls" / "project" / "build_prj.tcl").touch()
    assert f"cd runs/{run.name}/hls/project && vitis_hls -f build_prj.tcl" in words_of(page_of(run))


def test_a_failed_page_leaves_the_old_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    page = page_of(run)
    (run / "lineage.json").unlink()
    with pytest.raises(FileNotFoundError):
        write(run)
    assert (run / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    "share, text", [(1.0, "100 %"), (0.99999, ">99.9 %"), (0.7983, "79.8 %"), (0.0, "0.0 %")]
)
def test_a_hundred_percent_is_all(share: float, text: str) -> None:
    assert page.percent(share) == text


class Abacus(Backend):
    """A backend that somebody adds: on a target of its own, after the merged model."""

    name = "abacus"
    artifact = BACKENDS["merged"].artifact
    reference = BACKENDS["merged"]
    gate = Agreement("abacus_agreement", 0.9)
    target = Target("wood", "Wood", "beads", "It takes two hands.")
    words = "beads on wires"

    def open(self, folder: Path, threads: int = 0) -> Session:
        raise NotImplementedError

    def usage(self, run: Path) -> Usage:
        return Usage("Ten wires.", f"lift runs/{run.name}/merged")


def test_a_backend_that_is_added_has_a_leg_and_that_is_gone_its_name(tmp_path: Path) -> None:
    BACKENDS.add(Abacus())
    try:
        run = make_run(tmp_path, "tag")
        page = page_of(run)
        assert "abacus" in boxes(page, "") and boxes(page, "ghost") == ["merged"] * 2
        plate = re.findall(r"<b>([^<]*)</b><small>([^<]*)</small></div>", page)
        assert ("Wood", "beads") in plate
        text = words_of(page)
        assert "agreement with merged at least 0.9" in text and "It takes two hands." in text
        assert f"Ten wires. lift runs/{run.name}/merged" in text
        assert f'trivet predict {run.name} "{EXAMPLE}" --backend abacus' in text
    finally:
        BACKENDS.remove("abacus")
    page = page_of(run)  # of a recipe with a gate that nobody has any more
    assert "abacus" in boxes(page, "") and "beads" not in page
    tree = json.loads((run / "parity.json").read_text())
    for stage in tree["stages"]:
        stage["target"] = "" if stage["backend"] == "abacus" else stage["target"]
    (run / "parity.json").write_text(json.dumps(tree))
    assert "<b>abacus</b>" in page_of(run)  # a leg of its own, by its name


def test_a_run_without_a_language_model_speaks_of_none(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tree = json.loads((run / "parity.json").read_text())
    tree["stages"] = [stage for stage in tree["stages"] if stage["target"] == "fpga"]
    tree["stages"][0] |= {"reference": None, "delta": None, "agreement": None}
    (run / "parity.json").write_text(json.dumps(tree))
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"tune": None}))
    (run / "curve.json").unlink()
    facts = ChipFacts.read(run)
    student = facts.student.model_copy(update={"hard_label_value": None})
    facts.model_copy(update={"student": student}).write(run)
    page = page_of(run)
    assert len(boxes(page, "")) == 5 and not boxes(page, "ghost")
    text = words_of(page)
    assert (
        "no language model takes part" in text
        and "The student beats the strongest baseline" in text
    )
    for words in ("distilled student", "tuned model", "LoRA", "does not run the language model"):
        assert words not in text


def test_an_example_is_quoted_for_a_shell(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = 'say "$HOME" and it\'s off'
    data("classify").model_copy(update={"example": text}).write(run)
    argument = "'say \"$HOME\" and it'\"'\"'s off'"
    assert f"trivet predict {run.name} {argument} --backend onnx-int8" in words_of(page_of(run))
    data("classify").model_copy(update={"example": ""}).write(run)
    assert f'trivet predict {run.name} "your own text" --backend' in words_of(page_of(run))
