"""Each stage asked once more without Trivet, and each row alone: what all stages get wrong together
is seen here, and a folder proves itself to whoever has it.

The base is two random layers under the real tokenizer: what is compared is two ways to ask the same
model, whatever it knows. Run: pytest tests/e2e/test_stock.py
"""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bare_run import bare_run
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trivet import UserError
from trivet.artifacts.run import Run
from trivet.artifacts.store import Store
from trivet.backends.sessions.onnx_model import OnnxModel
from trivet.evaluate import invariance, parity, stock, verifier
from trivet.evaluate.score import Scored
from trivet.plugins import BACKENDS, TASKS
from trivet.records.parity import ParityTable, Stage
from trivet.records.score import Score
from trivet.records.stock import Invariance, StockCheck
from trivet.tasks.example import Example

LANGUAGE = ("adapter", "merged", "onnx-fp32", "onnx-int8")
PLACES = ("hall", "attic", "small old kitchen", "garden behind the house", "bath", "shed")
# Of many lengths, the longest cut; so that a batch is padded.
ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [
        {"text": f"turn {way} the light in the {place}" + " please" * n * n, "label": way}
        for n, place in enumerate(PLACES)
        for way in ("on", "off", "up")
    ],
    "tag": [
        {
            "tokens": [*["please"] * n * n, "light", *place.split(), way],
            "tags": [*["O"] * n * n, "O", *["B-room"] * len(place.split()), "B-way"],
        }
        for n, place in enumerate(PLACES)
        for way in ("on", "off")
    ],
    "generate": [
        {
            "messages": [
                *[{"role": "system", "content": "Be short."}] * (n % 2),
                {"role": "user", "content": f"Where is the {place}?" + " Tell me." * n * n},
                {"role": "assistant", "content": f"The {place} is {n} steps away."},
            ]
        }
        for n, place in enumerate(PLACES)
    ],
}
SLOW = {"tag", "generate"}  # of these tasks in `make sweep` alone
each_task = pytest.mark.parametrize(
    "task", [pytest.param(t, marks=[pytest.mark.long] * (t in SLOW)) for t in ROWS]
)
PROMPTS = {"classify": "Command: {text}. Intent:", "tag": "Command: {text}. Tags: {text}"}


@pytest.fixture(scope="module")
def tiny(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,  # so that logits lie apart
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def row(run: Run, name: str) -> parity.Row:
    """A backend's row of the table, built up to its checks."""
    backend = BACKENDS[name]
    folder = run.build(Scored(backend))
    check = stock.stock_of(run, backend)
    assert check
    answers = StockCheck.read(run.build(check))
    alone = Invariance.read_if_there(folder)
    return parity.Row(backend, Score.read(folder), folder, answers, alone)


def judged(run: Run, *names: str) -> dict[str, Stage]:
    table = parity.compare(run.recipe, run.name, [row(run, n) for n in names], [], {})
    assert table.promoted == all(stage.passed for stage in table.stages)
    return {stage.backend: stage for stage in table.stages}


def made(task: str, base: Path, root: Path) -> Run:
    tree = {
        "data": {"task": task, "source": "x", "max_length": 48, "prompt": PROMPTS.get(task, "")},
        "model": {"base": str(base)},
        "tune": {"rank": 4, "epochs": 1, "batch": 4, "precision": "fp32", "kernels": "peft"},
        "gates": {"onnx_int8_points": 10000.0},
    }
    run = bare_run(root, tree, dict.fromkeys(("train", "valid", "test"), ROWS[task]))
    for artifact in run.artifacts():
        run.build(artifact)
    run.publish()
    table = parity.compare(run.recipe, run.name, [row(run, n) for n in LANGUAGE], [], {})
    table.write(run.folder)
    stock.publish(run, table)
    return run


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    return functools.cache(lambda task: made(task, tiny, tmp_path_factory.mktemp(task)))


@each_task
def test_all_is_the_same_and_every_row_stands_alone(task: str, runs: Callable[[str], Run]) -> None:
    table = ParityTable.read(runs(task).folder)
    assert [s.backend for s in table.stages] == list(LANGUAGE)
    for stage in table.stages:
        assert stage.stock and stage.stock.same == stage.stock.rows == len(ROWS[task])
        assert stage.stock.tolerances is not None and stage.stock.tolerances <= 1
        figures = {stage.metric: stage.value, stage.second.name: stage.second.value}
        assert stage.stock.value == pytest.approx(figures[stage.stock.metric], abs=1e-4)
        assert stage.invariance and stage.invariance.holds
        assert (stage.invariance.left is None) == (stage.target == "cpu")
    assert table.promoted, table.refused
    assert any("takes no positions" in note for note in table.notes)


@each_task
def test_a_folder_proves_itself_far_from_trivet(
    task: str, runs: Callable[[str], Run], tmp_path: Path
) -> None:
    """Of a copy elsewhere, in a process that cannot import Trivet, started in another folder."""
    for name, models in (("onnx", 2), ("merged", 1), ("adapter", 1)):
        folder = tmp_path / name
        shutil.copytree(runs(task).folder / name, folder)
        code = f"import sys, runpy; sys.modules['trivet'] = None; sys.argv = ['verify.py']; \
runpy.run_path({str(folder / 'verify.py')!r}, run_name='__main__')"
        command = [sys.executable, "-I", "-c", code]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(f"{len(ROWS[task])} of {len(ROWS[task])} rows the same") == models


def test_trivet_cannot_be_imported_where_verify_runs(tmp_path: Path) -> None:
    file = tmp_path / "verify.py"
    for module in ("trivet", "trivet.evaluate.score"):
        file.write_text(f"import {module}\n")
        done = verifier.run(file)
        assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr
    file.write_text("import transformers, peft, onnxruntime, tokenizers, jinja2\n")
    assert verifier.run(file).returncode == 0


def test_a_received_file_is_not_executed(runs: Callable[[str], Run], tmp_path: Path) -> None:
    folder = tmp_path / "received"
    shutil.copytree(runs("classify").folder / "onnx", folder)
    assert stock.check_folder(folder).notes == []
    mark = tmp_path / "mark"
    (folder / "verify.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (folder / "numpy.py").write_text(f"open({str(mark)!r}, 'w')\n")
    done = stock.check_folder(folder)
    assert done.returncode == 0 and not mark.exists()
    assert "differs" in done.notes[0]


# What is wrong on purpose.


def damaged(run: Run, folder: Path) -> Run:
    """The same run over a store of its own: linked, so what is changed must be replaced."""
    store = Path(shutil.copytree(run.store.folder, folder, copy_function=os.link))
    for old in (*store.glob("stock-*/"), *store.glob("*.lock")):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return dataclasses.replace(run, store=Store(str(store), store))


def replace(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


def score_again(run: Run, name: str) -> None:
    shutil.rmtree(run.path(Scored(BACKENDS[name])))


def test_a_scorer_that_pads_with_another_id(
    runs: Callable[[str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask is whole, so that the padding is read: all stages would agree on that."""
    plain = OnnxModel.logits

    def padded(self: OnnxModel, examples: list[Example]) -> np.ndarray:
        length = max(len(e.ids) for e in examples)
        wrong = [dataclasses.replace(e, ids=e.ids + [5] * (length - len(e.ids))) for e in examples]
        return plain(self, wrong)

    run = damaged(runs("classify"), tmp_path / "store")
    for name in ("onnx-fp32", "onnx-int8"):
        score_again(run, name)
    monkeypatch.setattr(OnnxModel, "logits", padded)
    stages = judged(run, "onnx-fp32", "onnx-int8")
    assert all(not stage.passed for stage in stages.values())
    first = stages["onnx-fp32"]
    assert first.stock and first.stock.same < first.stock.rows and not first.passed
    assert "without Trivet" in first.measured
    assert first.invariance and not first.invariance.holds and "in a batch by" in first.measured
    good = ParityTable.read(runs("classify").folder).stages[2]
    assert first.stock.value == good.value != first.value


@pytest.mark.long
def test_a_model_that_sees_padding(
    runs: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal model without its mask: right padding cannot show it, left padding does."""
    run = runs("generate")
    session: Any = BACKENDS["merged"].open(run.path(BACKENDS["merged"].artifact))
    forward = session.model.forward

    @functools.wraps(forward)
    def blind(*args: Any, attention_mask: Any = None, **more: Any) -> Any:
        return forward(*args, attention_mask=torch.ones_like(attention_mask), **more)

    folder = run.path(BACKENDS["merged"].artifact)
    assert invariance.measure(session, ROWS["generate"], folder).holds
    monkeypatch.setattr(session.model, "forward", blind)
    seen = invariance.measure(session, ROWS["generate"], folder)
    assert seen.batch <= 1 and seen.left is not None and seen.left > 100 and not seen.holds


def one_scale(folder: Path) -> None:
    file = folder / "model.int8.onnx"
    graph = onnx.load(file)
    scales = next(t for t in graph.graph.initializer if t.name.endswith("_scales"))
    values = onnx.numpy_helper.to_array(scales).copy()
    values.flat[0] *= 2
    scales.CopyFrom(onnx.numpy_helper.from_array(values, scales.name))
    file.unlink()
    onnx.save(graph, file)


def other_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    names = [config["id2label"][key] for key in sorted(config["id2label"])]
    config["id2label"] = {str(i): name for i, name in enumerate(names[1:] + names[:1])}
    replace(folder / "config.json", json.dumps(config))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def no_head(folder: Path) -> None:
    """transformers then draws a new one and says so in a log alone."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    rest = {name: w for name, w in weights.items() if "score" not in name}
    assert len(rest) < len(weights)
    file.unlink()
    save_file(rest, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("task", "name", "damage", "words"),
    [
        ("classify", "onnx-int8", one_scale, "rows are the same"),
        ("classify", "onnx-fp32", other_labels, "rows are the same"),
        ("classify", "merged", other_labels, "rows are the same"),
        pytest.param(
            *("tag", "onnx-fp32", other_labels, "rows are the same"), marks=pytest.mark.long
        ),
        pytest.param(
            *("generate", "onnx-fp32", no_template, "no chat template"), marks=pytest.mark.long
        ),
        ("classify", "merged", no_head, "rows are the same"),
    ],
)
def test_damage_on_the_way_is_refused_and_seen_in_the_folder(
    task: str,
    name: str,
    damage: Callable[[Path], None],
    words: str,
    runs: Callable[[str], Run],
    tmp_path: Path,
) -> None:
    run = damaged(runs(task), tmp_path / "store")
    artifact = BACKENDS[name].artifact
    damage(run.path(artifact))
    if damage is no_head:  # the scorer opens what ships too, and draws the same new head each time
        score_again(run, name)
    if damage is no_template:  # no row can be asked at all: the run ends there, by name
        with pytest.raises(UserError, match=words):
            judged(run, name)
    else:
        stage = judged(run, name)[name]
        assert not stage.passed and words in stage.measured
    folder = tmp_path / "received"
    shutil.copytree(runs(task).folder / artifact.name, folder, copy_function=os.link)
    damage(folder)
    done = stock.check_folder(folder)
    assert done.returncode == (2 if damage is no_template else 1)


def test_a_task_or_a_backend_without_a_part_is_named(
    runs: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("classify")
    monkeypatch.setattr(type(TASKS["classify"]), "stock", "")
    backend = BACKENDS["merged"]
    assert stock.stock_of(run, backend) is None
    bare = dataclasses.replace(row_without(run, "merged"), stock=None)
    table = parity.compare(run.recipe, run.name, [bare], [], {})
    assert any("merged: not asked without Trivet: the task" in note for note in table.notes)


def row_without(run: Run, name: str) -> parity.Row:
    folder = run.path(Scored(BACKENDS[name]))
    return parity.Row(BACKENDS[name], Score.read(folder), folder)
