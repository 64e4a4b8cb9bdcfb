"""A run's folder with every record that a page reads, and what a reader sees of the page."""

import html
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

from trivet.artifacts.run import Run
from trivet.backends.backend import Backend
from trivet.config.recipe import Recipe
from trivet.evaluate import parity
from trivet.evaluate.baseline import Peer
from trivet.plugins import BACKENDS, TASKS
from trivet.records.chip import ChipFacts
from trivet.records.dataset import RunData
from trivet.records.lineage import Lineage
from trivet.records.record import Record
from trivet.records.score import Baseline, Confusion, Curve, Metric, Point, Score, Vectors
from trivet.report import write
from trivet.tasks.tally import Tally

ROWS = 200
EXAMPLE = "turn off the kitchen light"
MD5 = "c3a0b0e3d5d1f0a9e8b7c6d5e4f3a2b1.dir"
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

    The backend `damaged` answers at random. `wins`: the tuned model beats the baselines. The tool
    of the backend `failed` broke.
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
        tally = Tally.right(logits.argmax(1) == truth)
        if TASKS[task].lower_is_better:
            tally = Tally(3 - 2 * tally.numerator, tally.denominator)
        score = Score(
            metric=tally.metric(METRIC[task][0]),
            second=Metric(name=METRIC[task][1], value=0.95 * right),
            rows=ROWS,
            ms_per_row=40.0 / (1 + len(rows)),
            threads=2,
            machine="x86_64, a processor",
            vectors=Vectors(rows=20_000, equal=20_000) if backend.bit_exact else None,
            held_out="5a" * 32,
        )
        (folder / name).mkdir()
        np.save(folder / name / "logits.npy", logits)
        np.save(folder / name / "counts.npy", np.ones(ROWS, int))
        tally.save(folder / name)
        rows.append(parity.Row(backend, score, folder / name))
    peers = baselines(rows[0].tally(), 14 if wins else 0) if task == "classify" else []
    run = folder / "home-4c2b11e-9f0a7d3"
    run.mkdir()
    missing = {BACKENDS[failed]: "verilator failed with 1"} if failed else {}
    present = [row for row in rows if row.backend.name != failed]
    table = parity.compare(recipe, run.name, present, peers, missing)
    (run / "recipe.json").write_text(recipe.model_dump_json())
    records: list[Record] = [table, curve(), data(task), lineage(run.name, table.promoted)]
    if task == "classify":
        matrix = np.zeros((len(LABELS), len(LABELS)), int)
        np.add.at(matrix, (truth, rows[1].logits().argmax(1)), 1)
        records += [Confusion(labels=LABELS, matrix=matrix.tolist()), chip_facts(recipe)]
    for record in records:
        record.write(run)
    return run


def baselines(first: Tally, fewer: int) -> list[Peer]:
    """One as good as the first stage but for `fewer` of its right rows, and a hopeless one."""
    right = first.numerator.copy()
    right[np.flatnonzero(right)[:fewer]] = 0
    peers = []
    for name, tally in (
        ("the majority label", Tally.right(np.zeros(ROWS))),
        ("TF-IDF + logistic regression", Tally.right(right)),
    ):
        low, high = tally.interval()
        second = Metric(name="macro_f1", value=0.9 * tally.value)
        figures = Baseline(name=name, value=tally.value, low=low, high=high, second=second)
        peers.append(Peer(figures, tally))
    return peers


def recipe_of(task: str) -> Recipe:
    fpga = {"enabled": task == "classify"}
    data = {"source": "home", "task": task, "rows": 150}
    return Recipe.model_validate({"name": "home", "data": data, "tune": {}, "fpga": fpga})


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
