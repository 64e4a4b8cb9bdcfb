"""The report says what the run's JSON files say, stays in one file, and its snippets run.

Run: .venv/bin/pytest tests/test_report.py
"""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trivet.flows.recipe import Data, Model, Recipe, Tune
from trivet.flows.steps import backends, export, model, parity, report

ROWS = 200
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
    """A run's JSON files: logits that drift a little from hop to hop, judged by the real gates.

    The backend `damaged` answers at random. `wins`: the tuned model beats the baseline. The tool of
    the backend `failed` broke.
    """
    fpga = {"enabled": task == "classify"}
    chosen = {"source": "home", "task": task, "rows": 150}
    recipe = Recipe.model_validate({"name": "home", "data": chosen, "tune": {}, "fpga": fpga})
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(LABELS), ROWS)
    noise = rng.normal(size=(ROWS, len(LABELS))).astype(np.float32)
    logits = np.eye(len(LABELS), dtype=np.float32)[truth] * 4 + noise
    scored: list[parity.Scored] = []
    drift = {"merged": 1e-6, "onnx-fp32": 1e-6, "onnx-int8": 0.05}
    drift |= {"student-float": 0.3, "student-fixed": 0.1}
    for name in backends.backends_of(recipe):
        noise = rng.normal(size=logits.shape).astype(np.float32)
        if name == "student-float":
            logits = scored[1].read()
        logits = noise if name == damaged else logits + drift.get(name, 0.0) * noise
        right = float((logits.argmax(1) == truth).mean())
        score: dict[str, Any] = {
            "metric": METRIC[task][0],
            "value": 3 - 2 * right if task == "generate" else right,
            "second": {"name": METRIC[task][1], "value": 0.95 * right},
            "rows": ROWS,
            "ms_per_row": 40.0 / (1 + len(scored)),
            "random": {"equal": 20_000, "rows": 20_000},
        }
        np.save(folder / f"{name}.npy", logits)
        scored.append(parity.Scored(name, score, folder / f"{name}.npy"))
    baseline = None
    if task == "classify":
        value = scored[0].score["value"] - (0.07 if wins else 0)
        baseline = {
            "name": "tf-idf + logistic regression",
            "value": value,
            "macro_f1": value - 0.04,
        }
    run = folder / "home-4c2b11e-9f0a7d3"
    run.mkdir()
    missing = {failed: "verilator failed with 1"} if failed else {}
    table = parity.table(
        recipe, run.name, [s for s in scored if s.backend != failed], baseline, 2, missing
    )

    def save(name: str, content: Any) -> None:
        (run / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    save("parity", table)
    save("recipe", recipe.model_dump())
    save("curve", curve())
    save("data", card(task))
    save("lineage", lineage(run.name, table["promoted"]))
    if task == "classify":
        matrix = np.zeros((len(LABELS), len(LABELS)), int)
        np.add.at(matrix, (truth, scored[1].read().argmax(1)), 1)
        save("confusion", {"labels": LABELS, "matrix": matrix.tolist()})
        save("fpga", fpga_facts(recipe, table))
    return run


def fpga_facts(recipe: Recipe, table: dict[str, Any]) -> dict[str, Any]:
    """fpga.json as a run writes it, the chip's tools' files included."""
    layers = [
        {"layer": f"dense_{i}", "weight": "ap_fixed<6,1>", "bias": "ap_fixed<6,0>"}
        | {"output": "ap_ufixed<8,3>", "range": [0.0, 7.97], "saturated": i, "values": ROWS * 32}
        | {"test_saturated": 0, "test_values": ROWS * 8}
        for i in range(3)
    ]
    ways = [
        {"backend": hop["backend"], "rows": ROWS, "rows_equal": hop["rows_equal"]}
        | {"exact": hop["exact"], "vectors": 20_000, "vectors_equal": 20_000}
        for hop in table["hops"]
        if hop["backend"] in backends.EXACT
    ]
    signals = {"mark": [0, 1, 0, 0, 0], "x[3]": [0, 2, 0, 0, 0], "answer": [4, 4, 4, 17, 4]}
    cells = {"lut": 4321, "ff": 1234, "dsp": 0, "bram": 0}
    clock = {"mhz": 104.2, "device": "LFE5U-25F", "speed": "6", "seed": 1}
    return {
        **{"part": recipe.fpga.part, "parameters": 10_303, "inputs": "counts", "bins": 256},
        **{"hard_label_value": 0.548, "distilled_value": 0.781, "layers": layers, "ways": ways},
        "default_precision": {"precision": "ap_fixed<16,6>", "rows": ROWS}
        | {"logits_differ": 50, "answers_differ": 10},
        "rtl": {"cycles": 2, "interval": 1, "cost": 4000.0}
        | {"layers": [{"layer": f"dense_{i}", "cost": 1000.0 * i} for i in range(3)]},
        "wave": {"marked": 1, "answered": 3, "signals": signals},
        "synth": {"xcup": cells, "ecp5": cells, "clock": clock, "failures": {"bram": EVIL}},
        "vendor": {"note": "Read from the vendor's report.", "failures": {"quartus": EVIL}}
        | {"vivado": cells | {"lut": 3999, "mhz": 250.5, "tool": "Vivado v.2025.1"}},
    }


def curve() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": (step - 1) // 19 + 1,
            "train_loss": 0.1 + 3.4 * np.exp(-step / 30) * (1 + 0.3 * np.sin(step * 1.7)),
            "valid_loss": 0.7 + 2 * np.exp(-step / 25) + 0.0012 * step if step % 19 == 0 else None,
            "learning_rate": 5e-4,
        }
        for step in range(1, 191)
    ]


def card(task: str) -> dict[str, Any]:
    return {
        "source": "home",
        "kind": "voice commands",
        "md5": "c3a0b0e3d5d1f0a9e8b7c6d5e4f3a2b1.dir",
        "rows": {"train": 150, "valid": 100, "test": ROWS, "pool": 4000},
        "labels": {} if task == "generate" else {x: 8 + 11 * i for i, x in enumerate(LABELS)},
        "duplicates_removed": 17,
        "duplicates_with_another_label": 3,
        "tokens": {"median": 13, "max": 41},
        "truncated": 0,
        "origin": {"package": "home-assistant-intents", "sha256": "256eb1e4" * 8},
        "licence": "Apache-2.0",
    }


def lineage(run: str, promoted: bool) -> dict[str, Any]:
    return {
        "run": run,
        "lineage": "9f0a7d3" + "0" * 57,
        "recipe": "home",
        "dvc_md5": card("tag")["md5"],
        "git_commit": "4fd1294" + "a" * 33,
        "git_dirty": True,
        "flow_run_id": "0192f0c2-7c1e-7a11-b5a3-111111111111",
        "flow_run_url": "http://127.0.0.1:4200/runs/flow-run/0192f0c2",
        "mlflow_run_id": "5f" * 16,
        "mlflow_url": "javascript:alert(1)",
        "registered": {"name": "home", "version": "3", "alias": "champion"} if promoted else None,
    }


def page_of(run: Path) -> str:
    assert report.write(run) == run / "report.html"
    assert not list(run.glob("*.part"))
    return (run / "report.html").read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """What a reader sees, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.split("</style>")[1])).split())


def boxes(page: str, kind: str) -> list[str]:
    """Names in the picture's boxes of class `kind` ("": green)."""
    return re.findall(rf'<div class="hop {kind}"><small>([^<]*)</small>', page)


@pytest.mark.parametrize("task", list(METRIC))
def test_the_page_is_whole_and_holds_every_number(tmp_path: Path, task: str) -> None:
    run = make_run(tmp_path, task)
    page = page_of(run)
    table = json.loads((run / "parity.json").read_text())
    assert table["promoted"]
    names = [hop["backend"] for hop in table["hops"]]
    assert sorted(boxes(page, "")) == sorted(names)
    assert not boxes(page, "bad")
    assert boxes(page, "ghost") == ["merged"] * (2 if task == "classify" else 1)
    text = words_of(page)
    for hop in table["hops"]:
        assert f"{hop['backend']} {hop['value']:.4f} {hop['second']['value']:.4f}" in text
    assert ("student of 10,303 parameters" in text) == (task == "classify")
    assert ("trivet chat" in text) == (task == "generate")
    if task == "classify":
        assert "4,321 of 216,960" in text and "104 MHz on LFE5U-25F" in text
        assert "synthesis for xcku5p-ffvb676-2-e has +8.0 %" in text and "2 cycles, 19 ns" in text
        assert "Vivado v.2025.1 3,999 1,234 0 0 250.5" in text and "No report of quartus" in text
        assert "other logits on 50 of 200 test rows and another answer on 10" in text
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


def test_a_refused_hop_is_red_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, damaged="onnx-int8")
    page = page_of(run)
    (refused,) = json.loads((run / "parity.json").read_text())["refused"]
    assert boxes(page, "bad") == ["onnx-int8"]
    assert page.count('class="foot bad"') == page.count('class="link bad"') == 1
    said = f"onnx-int8 broke its gate. Measured: {refused['measured']}. Gate: {refused['gate']}."
    assert said in words_of(page)
    assert "Promoted." not in page


def test_a_hop_whose_tool_failed_is_refused_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, failed="rtl")
    text = words_of(page_of(run))
    table = json.loads((run / "parity.json").read_text())
    assert not table["promoted"] and "rtl" not in [hop["backend"] for hop in table["hops"]]
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
        report.write(run)
    assert (run / "report.html").read_text(encoding="utf-8") == page


def test_curve_in_markdown() -> None:
    points = curve()
    lines = report.curve_markdown(points).splitlines()
    valid = {p["epoch"]: p["valid_loss"] for p in points if p["valid_loss"] is not None}
    best = min(valid, key=lambda e: valid[e])
    assert 1 < best < 10
    for epoch, line in zip(valid, lines[2:], strict=True):
        train = np.mean([p["train_loss"] for p in points if p["epoch"] == epoch])
        assert line.startswith(f"| {epoch} | {train:.3f} | {valid[epoch]:.3f} | █")
        assert line.endswith("kept |") == (epoch == best)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [{"step": 1, "epoch": 1, "train_loss": float("nan"), "valid_loss": None}],
        [{"step": 1, "epoch": 1, "train_loss": 0.0, "valid_loss": 0.0}],
    ],
)
def test_odd_curves_still_make_a_page(tmp_path: Path, points: list[dict[str, Any]]) -> None:
    run = make_run(tmp_path)
    (run / "curve.json").write_text(json.dumps(points))
    assert "nan" not in re.findall(r"<svg class=\"curve\".*?</svg>", page_of(run), re.S)[0]
    assert len(report.curve_markdown(points).splitlines()) == 2 + len(points)


def test_a_long_curve_keeps_its_mean() -> None:
    points = [(step, float(step % 7)) for step in range(1, 2101)]
    thin = report._thin(points)
    assert len(thin) == 300
    assert np.mean([loss for _, loss in thin]) == pytest.approx(3.0)


def test_many_labels_are_cut_to_the_most_frequent() -> None:
    size = 60
    matrix = np.diag(np.arange(1, size + 1)).tolist()
    matrix[59][58] = 5
    heat = report.heat_map([f"label {i}" for i in range(size)], matrix)
    assert heat["names"] == [f"label {i}" for i in range(15, 60)]
    assert heat["mistakes"] == [(5, "label 59", "label 58")]
    assert heat["rows"] == size * (size + 1) // 2 + 5


@pytest.mark.parametrize(
    "share, text", [(1.0, "100 %"), (0.99999, ">99.9 %"), (0.7983, "79.8 %"), (0.0, "0.0 %")]
)
def test_a_hundred_percent_is_all(share: float, text: str) -> None:
    assert report._percent(share) == text


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
    data = Data.model_validate(json.loads((run / "recipe.json").read_text())["data"])
    adapted = model.adapt(model.load(small_base, task, labels), Tune(rank=4), task)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:  # zero until trained
                weight.normal_(std=0.02)
    adapted.save_pretrained(run / "adapter")
    model.load_tokenizer(small_base).save_pretrained(run / "adapter")
    backends.Card(data, Model(base=str(small_base)), labels).write(run / "adapter")
    for name in ("merged", "onnx"):
        (run / name).mkdir()
    export.merge(run / "adapter", run / "merged")
    export.onnx_fp32(run / "merged", run / "onnx")
    table = json.loads((run / "parity.json").read_text())
    table["hops"] = [hop for hop in table["hops"] if hop["backend"] != "onnx-int8"]
    (run / "parity.json").write_text(json.dumps(table))  # without int8 all answers are equal

    snippets = re.findall(r'<code class="python">(.*?)</code>', page_of(run), re.S)
    monkeypatch.chdir(tmp_path)
    said = []
    capsys.readouterr()
    for snippet in snippets:
        exec(compile(html.unescape(snippet), "snippet", "exec"), {})
        said.append(capsys.readouterr().out)
    assert len(said) == 3
    assert len(set(said)) == 1
    if task == "classify":
        assert said[0].strip() in labels
    elif task == "tag":
        assert said[0].count("(") == 1 + "turn off the kitchen light".count(" ")
