"""The report says what the run's records say, stays in one file, and its snippets run.

Run: .venv/bin/pytest tests/unit/test_report.py
"""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from trivet import UserError
from trivet.artifacts.run import Run
from trivet.backends.backend import Backend, Session, Target, Usage
from trivet.backends.gate import Agreement
from trivet.config.recipe import Recipe, of_run
from trivet.evaluate import parity
from trivet.plugins import BACKENDS, TASKS
from trivet.records.card import Base, Card
from trivet.records.chip import ChipFacts
from trivet.records.dataset import RunData
from trivet.records.lineage import Lineage
from trivet.records.parity import ParityTable
from trivet.records.record import Record
from trivet.records.score import Baseline, Confusion, Curve, Metric, Point, Score, Vectors
from trivet.records.student import StudentFacts
from trivet.report import curve as curves
from trivet.report import curve_markdown, heat_map, page, write

ROWS = 200
EXAMPLE = "turn off the kitchen light"
MD5 = "c3a0b0e3d5d1f0a9e8b7c6d5e4f3a2b1.dir"
VERSION_1 = next((Path(__file__).parent / "version-1").iterdir())
EVIL = "<script>alert('x')</script> & \"co\""
LABELS = [
    *("HassBroadcast", "HassCancelAllTimers", "HassCancelTimer", "HassClimateGetTemperature"),
    *("HassClimateSetFanMode", "HassClimateSetTemperature", "HassDecreaseTimer", "HassFanSetSpeed"),
    *("HassGetCurrentDate", "HassGetCurrentTime", "HassGetState", "HassGetWeather"),
    *("HassIncreaseTimer", "HassLawnMowerDock", "HassLightSet", "HassListAddItem"),
    *("HassListCompleteItem", "HassMediaNext", "HassMediaPause", "HassMediaPlayerMute"),
    *("HassMediaSearchAndPlay", "HassMediaUnpause", "HassNevermind", "HassPauseTimer"),
    *("HassSetPosition", "HassSetVolume", "HassStartTimer", "HassTimerStatus"),
    *("HassTurnOff", "HassTurnOn"),
    EVIL,
]
METRIC = {
    "classify": ("accuracy", "macro_f1"),
    "tag": ("span_f1", "token_accuracy"),
    "generate": ("loss", "chrf"),
}


def make_run(
    folder: Path, task: str = "classify", damaged: str = "", wins: bool = True, failed: str = ""
) -> Path:
    """A run's records: logits that drift a little from stage to stage, judged by the real gates.

    The backend `damaged` answers at random. `wins`: the tuned model beats the baseline. The tool of
    the backend `failed` broke.
    """
    recipe = recipe_of(task)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(LABELS), ROWS)
    noise = rng.normal(size=(ROWS, len(LABELS))).astype(np.float32)
    logits = np.eye(len(LABELS), dtype=np.float32)[truth] * 4 + noise
    rows: list[parity.Row] = []
    drift = {"merged": 1e-6, "onnx-fp32": 1e-6, "onnx-int8": 0.05}
    drift |= {"student-float": 0.3, "student-fixed": 0.1}
    for backend in backends_of(recipe):
        name = backend.name
        noise = rng.normal(size=logits.shape).astype(np.float32)
        if name == "student-float":
            logits = np.array(rows[1].logits())
        logits = noise if name == damaged else logits + drift.get(name, 0.0) * noise
        right = float((logits.argmax(1) == truth).mean())
        value = 3 - 2 * right if TASKS[task].lower_is_better else right
        score = Score(
            metric=Metric(name=METRIC[task][0], value=value),
            second=Metric(name=METRIC[task][1], value=0.95 * right),
            rows=ROWS,
            ms_per_row=40.0 / (1 + len(rows)),
            threads=2,
            machine="x86_64, a processor",
            vectors=Vectors(rows=20_000, equal=20_000) if backend.bit_exact else None,
        )
        (folder / name).mkdir()
        np.save(folder / name / "logits.npy", logits)
        rows.append(parity.Row(backend, score, folder / name))
    baseline = None
    if task == "classify":
        value = rows[0].score.metric.value - (0.07 if wins else 0)
        second = Metric(name="macro_f1", value=value - 0.04)
        baseline = Baseline(name="tf-idf + logistic regression", value=value, second=second)
    run = folder / "home-4c2b11e-9f0a7d3"
    run.mkdir()
    missing = {BACKENDS[failed]: "verilator failed with 1"} if failed else {}
    kept = [row for row in rows if row.backend.name != failed]
    table = parity.compare(recipe, run.name, kept, baseline, missing)
    (run / "recipe.json").write_text(recipe.model_dump_json())
    records: list[Record] = [table, curve(), data(task), lineage(run.name, table.promoted)]
    if task == "classify":
        matrix = np.zeros((len(LABELS), len(LABELS)), int)
        np.add.at(matrix, (truth, rows[1].logits().argmax(1)), 1)
        records += [Confusion(labels=LABELS, matrix=matrix.tolist()), chip_facts(recipe)]
    for record in records:
        record.write(run)
    return run


def recipe_of(task: str) -> Recipe:
    fpga = {"enabled": task == "classify"}
    chosen = {"source": "home", "task": task, "rows": 150}
    return Recipe.model_validate({"name": "home", "data": chosen, "tune": {}, "fpga": fpga})


def backends_of(recipe: Recipe) -> list[Backend]:
    """In the order of a run's table."""
    nothing = cast(Any, None)
    return Run(Path(), recipe, nothing, {}, nothing).backends()


def chip_facts(recipe: Recipe) -> ChipFacts:
    """fpga.json as a run writes it, with what each of the chip's tools has found."""
    layers = [
        {"layer": f"dense_{i}", "weight": "ap_fixed<6,1>", "bias": "ap_fixed<6,0>"}
        | {"output": "ap_ufixed<8,3>", "range": (0.0, 7.97), "saturated": i, "values": ROWS * 32}
        | {"test_saturated": 0, "test_values": ROWS * 8}
        for i in range(3)
    ]
    signals = {"mark": [0, 1, 0, 0, 0], "x[3]": [0, 2, 0, 0, 0], "answer": [4, 4, 4, 17, 4]}
    area = {"lut": 4321, "ff": 1234, "dsp": 0, "bram": 0}
    clock = {"mhz": 104.2, "device": "LFE5U-25F", "speed": "6"}
    tree = {
        "part": recipe.fpga.part,
        "student": {"parameters": 10_303, "inputs": "counts", "bins": 256, "layers": layers}
        | {"labelled_by_teacher": 4150, "hard_label_value": 0.548}
        | {"distilled_value": 0.781, "valid_value": 0.79},
        "default_precision": {"precision": "ap_fixed<16,6>", "rows": ROWS}
        | {"logits_differ": 50, "answers_differ": 10},
        "design": {"cycles": 2, "interval": 1, "cost": 4000.0}
        | {"layers": [{"layer": f"dense_{i}", "cost": 1000.0 * i} for i in range(3)]},
        "wave": {"marked": 1, "answered": 3, "signals": signals},
        "synth": {"xcup": area, "ecp5": area, "clock": clock, "failures": {"bram": EVIL}},
        "vendor": {"note": "Read from the vendor's report.", "failures": {"quartus": EVIL}}
        | {"vivado": area | {"lut": 3999, "mhz": 250.5, "tool": "Vivado v.2025.1"}},
    }
    return ChipFacts.model_validate(tree)


def curve() -> Curve:
    return Curve(
        points=[
            Point(
                step=step,
                epoch=(step - 1) // 19 + 1,
                train_loss=0.1 + 3.4 * np.exp(-step / 30) * (1 + 0.3 * np.sin(step * 1.7)),
                valid_loss=0.7 + 2 * np.exp(-step / 25) + 0.0012 * step if step % 19 == 0 else None,
                learning_rate=5e-4,
            )
            for step in range(1, 191)
        ]
    )


def data(task: str) -> RunData:
    rows = {"train": 150, "valid": 100, "test": ROWS, "pool": 4000}
    card = {
        "source": "home",
        "kind": "voice commands",
        "task": task,
        "seed": 0,
        "rows": rows,
        "labels": {} if task == "generate" else {x: 8 + 11 * i for i, x in enumerate(LABELS)},
        "duplicates_removed": 17,
        "duplicates_with_another_label": 3,
        "origin": {"package": "home-assistant-intents", "sha256": "256eb1e4" * 8},
        "licence": "Apache-2.0",
    }
    tree = {"card": card, "md5": MD5, "rows": rows, "tokens": {"median": 13, "max": 41}}
    return RunData.model_validate(tree | {"truncated": 0, "example": EXAMPLE})


def lineage(run: str, promoted: bool) -> Lineage:
    tree = {
        "run": run,
        "lineage": "9f0a7d3" + "0" * 57,
        "recipe": "home",
        "dvc_md5": MD5,
        "git_commit": "4fd1294" + "a" * 33,
        "git_dirty": True,
        "flow_run_id": "0192f0c2-7c1e-7a11-b5a3-111111111111",
        "flow_run_url": "http://127.0.0.1:4200/runs/flow-run/0192f0c2",
        "mlflow_run_id": "5f" * 16,
        "mlflow_url": "javascript:alert(1)",
        "registered": {"name": "home", "version": "3", "alias": "champion"} if promoted else None,
    }
    return Lineage.model_validate(tree)


def page_of(run: Path) -> str:
    assert write(run) == run / "report.html"
    assert not list(run.glob("*.part"))
    return (run / "report.html").read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """What a reader sees, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.split("</style>")[1])).split())


def boxes(page: str, kind: str) -> list[str]:
    """Names in the picture's boxes of class `kind` ("": green)."""
    return re.findall(rf'<div class="stage {kind}"><small>([^<]*)</small>', page)


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
        assert f"{stage.backend} {stage.value:.4f} {stage.second.value:.4f}" in text
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
    text = words_of(page_of(make_run(tmp_path, wins=wins)))
    assert ("The baseline is at least as good." in text) != wins
    assert ("beats the baseline" in text and "by 7.0 points" in text) == wins


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


def test_curve_in_markdown() -> None:
    points = curve().points
    lines = curve_markdown(curve()).splitlines()
    valid = {p.epoch: p.valid_loss for p in points if p.valid_loss is not None}
    best = min(valid, key=lambda e: valid[e])
    assert 1 < best < 10
    for epoch, line in zip(valid, lines[2:], strict=True):
        train = np.mean([p.train_loss for p in points if p.epoch == epoch])
        assert line.startswith(f"| {epoch} | {train:.3f} | {valid[epoch]:.3f} | █")
        assert line.endswith("kept |") == (epoch == best)


@pytest.mark.parametrize("losses", [[], [(float("nan"), None)], [(0.0, 0.0)]])
def test_odd_curves_still_make_a_page(
    tmp_path: Path, losses: list[tuple[float, float | None]]
) -> None:
    run = make_run(tmp_path)
    points = [
        Point(step=1, epoch=1, train_loss=train, valid_loss=valid, learning_rate=1e-4)
        for train, valid in losses
    ]
    Curve(points=points).write(run)
    assert "nan" not in re.findall(r"<svg class=\"curve\".*?</svg>", page_of(run), re.S)[0]
    assert len(curve_markdown(Curve(points=points)).splitlines()) == 2 + len(points)


def test_a_long_curve_keeps_its_mean() -> None:
    points = [(step, float(step % 7)) for step in range(1, 2101)]
    thin = curves.thin(points)
    assert len(thin) == 300
    assert np.mean([loss for _, loss in thin]) == pytest.approx(3.0)


def test_many_labels_are_cut_to_the_most_frequent() -> None:
    size = 60
    matrix = np.diag(np.arange(1, size + 1)).tolist()
    matrix[59][58] = 5
    labels = [f"label {i}" for i in range(size)]
    heat = heat_map.heat_map(Confusion(labels=labels, matrix=matrix))
    assert heat.names == [f"label {i}" for i in range(15, 60)]
    assert heat.mistakes == [(5, "label 59", "label 58")]
    assert heat.rows == size * (size + 1) // 2 + 5


@pytest.mark.parametrize(
    "share, text", [(1.0, "100 %"), (0.99999, ">99.9 %"), (0.7983, "79.8 %"), (0.0, "0.0 %")]
)
def test_a_hundred_percent_is_all(share: float, text: str) -> None:
    assert page.percent(share) == text


@pytest.mark.parametrize("task", list(METRIC))
def test_the_snippets_run_and_agree(
    tmp_path: Path,
    small_base: Path,
    task: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each Python snippet of the page, as copied, on real artifacts of two real layers."""
    run = make_run(tmp_path, task)
    (tmp_path / "runs").mkdir()
    run = run.rename(tmp_path / "runs" / run.name)
    labels = {"classify": ["off", "on"], "tag": ["B-room", "B-way", "O"], "generate": []}[task]
    artifacts_of(run, small_base, task, labels)
    table = ParityTable.read(run)
    same = [stage for stage in table.stages if stage.backend != "onnx-int8"]
    table.model_copy(update={"stages": same}).write(run)  # without int8 all answers are equal

    snippets = re.findall(r'<code class="python">(.*?)</code>', page_of(run), re.S)
    monkeypatch.chdir(tmp_path)
    answers = []
    capsys.readouterr()
    for snippet in snippets:
        exec(compile(html.unescape(snippet), "snippet", "exec"), {})
        answers.append(capsys.readouterr().out)
    assert len(answers) == 3
    assert len(set(answers)) == 1
    if task == "classify":
        assert answers[0].strip() in labels
    elif task == "tag":
        assert answers[0].count("(") == 1 + EXAMPLE.count(" ")


def artifacts_of(run: Path, base_folder: Path, task: str, labels: list[str]) -> None:
    """adapter/, merged/ and onnx/ of a run, from an adapter with weights that were drawn."""
    from trivet.export.onnx import write_fp32
    from trivet.tasks.tokenizer import load_tokenizer
    from trivet.tuning import base

    recipe = of_run(run)
    assert recipe.tune
    model = base.load(base_folder, TASKS[task], labels)
    adapted = recipe.tune.adapt(model, TASKS[task])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:  # zero until trained
                weight.normal_(std=0.02)
    adapted.peft_config["default"].base_model_name_or_path = str(base_folder)
    adapted.save_pretrained(str(run / "adapter"))
    card = Card(
        task=task,
        prompt=recipe.data.prompt,
        max_length=recipe.data.max_length,
        labels=labels,
        model=Base(base=str(base_folder)),
    )
    merged = recipe.tune.merge(run / "adapter", base.load_adapted(run / "adapter", card))
    merged.save_pretrained(run / "merged")
    for name in ("adapter", "merged"):
        load_tokenizer(base_folder).save_pretrained(run / name)
        card.write(run / name)
    (run / "onnx").mkdir()
    write_fp32(run / "merged", run / "onnx")


def test_a_run_of_version_1_still_makes_its_page(tmp_path: Path) -> None:
    """The files of a real run, as they were written; the numbers are those of its own page."""
    run = Path(shutil.copytree(VERSION_1, tmp_path / VERSION_1.name))
    page = page_of(run)
    names = ["adapter", "merged", "onnx-fp32", "onnx-int8"]
    names += ["student-float", "student-fixed", "hls-csim", "alkaid", "rtl"]
    assert sorted(boxes(page, "")) == sorted(names)
    text = words_of(page)
    assert "onnx-int8 0.8267 0.8624 -0.0017 0.9867 0.43" in text
    assert "beats the baseline (tf-idf + logistic regression" in text
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
    assert table.baseline and table.baseline.second == Metric(
        name="macro_f1", value=0.6538950525096456
    )
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
    with pytest.raises(UserError, match="has version 99, and this Trivet reads up to 2"):
        write(run)


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


def test_an_example_is_quoted_for_a_shell(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = 'say "$HOME" and it\'s off'
    data("classify").model_copy(update={"example": text}).write(run)
    quoted = "'say \"$HOME\" and it'\"'\"'s off'"
    assert f"trivet predict {run.name} {quoted} --backend onnx-int8" in words_of(page_of(run))
    data("classify").model_copy(update={"example": ""}).write(run)
    assert f'trivet predict {run.name} "your own text" --backend' in words_of(page_of(run))
