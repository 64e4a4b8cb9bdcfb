"""How each artifact of a run is made, in the order of the way: adapter, merged, onnx, labels,
student, hls, verilog, rtl, synth, and the answers of every backend. Each is a folder in the run's
store, whole or absent.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...hw.network import Network
from ...hw.search import Rows
from . import data, export, fpga, registry, score, train
from . import model as base
from .backends import BACKENDS, EXACT, Card, best_device, open_backend
from .inputs import Inputs
from .parity import Scored
from .render import render
from .run import Run

Tell = Callable[[float], None]


def silent(share: float) -> None:
    """The progress of work that nobody watches."""


def adapter(
    run: Run, on_step: Callable[[dict[str, Any], float], None] = lambda point, share: None
) -> Path:
    """Tune; the folder holds a PEFT adapter, the tokenizer and curve.json."""
    recipe, tune = run.recipe, run.recipe.tune
    task = recipe.data.task
    if tune is None:
        raise ValueError("a recipe without [tune] has no adapter")

    def make(folder: Path) -> None:
        rows = data.read(recipe, run.data.folder)
        labels = data.labels(rows["train"], task)
        source = base.base_folder(recipe.model)
        remote = recipe.model.trust_remote_code
        tokenizer = base.load_tokenizer(source, remote)
        dtype = train.precision(tune)
        whole = base.load(source, task, labels, dtype, best_device(), remote)
        if tune.label_names and task != "generate":
            base.start_head(whole, tokenizer, labels)
        adapted = base.adapt(whole, tune, task)
        learn, judge = (
            render(rows[s], recipe.data, labels, tokenizer).examples for s in ("train", "valid")
        )
        curve = train.fit(adapted, learn, judge, tune, folder, on_step)
        tokenizer.save_pretrained(folder / "best")
        Card(recipe.data, recipe.model, labels).write(folder / "best")
        (folder / "curve.json").write_text(json.dumps(curve, indent=1) + "\n")
        shutil.copytree(folder / "best", folder, dirs_exist_ok=True)
        shutil.rmtree(folder / "best")

    return run.build("adapter", make, resume=True)


def merged(run: Run) -> Path:
    return run.build("merged", lambda folder: export.merge(run.path("adapter"), folder))


def onnx(run: Run) -> Path:
    def make(folder: Path) -> None:
        export.onnx_fp32(run.path("merged"), folder)
        if run.recipe.export.int8:
            export.onnx_int8(folder)

    return run.build("onnx", make)


def labels(run: Run, tell: Tell = silent) -> Path:
    """The tuned model's logits for the pool and the training rows, in that order: logits.npy."""
    rows = data.read(run.recipe, run.data.folder)

    def make(folder: Path) -> None:
        # a CPU answers through ONNX Runtime in half the time (merged 29 ms a row, onnx-fp32 17)
        name = "merged" if best_device() == "cuda" else "onnx-fp32"
        teacher = open_backend(name, run.path(BACKENDS[name][0]))
        answers = score.ask(teacher, rows["pool"] + rows["train"], "classify", progress=tell)
        np.save(folder / "logits.npy", answers.logits)

    return run.build("labels", make)


def teacher(run: Run) -> np.ndarray | None:
    """Those logits, float32 [pool + train rows, classes]; None without a language model."""
    return np.load(run.path("labels") / "logits.npy") if run.recipe.tune else None


def student(run: Run, tell: Tell = silent) -> Path:
    """A registered model's student where the recipe names one, else one that learns from the
    tuned model's answers, or from labels where there is none.
    """
    rows, name = data.read(run.recipe, run.data.folder), run.recipe.fpga.student

    def make(folder: Path) -> None:
        if name:
            registry.student(name, folder)
        else:
            fpga.learn(run.recipe, run.root, rows, teacher(run), folder, tell)

    return run.build("student", make)


def searched(run: Run) -> tuple[Rows, Network | None]:
    """What a search's trials learn from; see fpga.searched."""
    rows = data.read(run.recipe, run.data.folder)
    return fpga.searched(run.recipe, run.root, rows, teacher(run))


def hls(run: Run) -> Path:
    rows = data.read(run.recipe, run.data.folder)["test"]
    return run.build(
        "hls", lambda folder: fpga.compile_hls(run.recipe, rows, run.path("student"), folder)
    )


def verilog(run: Run) -> Path:
    rows = data.read(run.recipe, run.data.folder)["test"]
    return run.build(
        "verilog",
        lambda folder: fpga.compile_verilog(run.recipe, rows, run.path("student"), folder),
    )


def rtl(run: Run) -> Path:
    """The Verilog again, with its simulation: a tool that fails here leaves the other as it is."""
    rows = data.read(run.recipe, run.data.folder)["test"]
    return run.build("rtl", lambda folder: fpga.compile_rtl(rows, run.path("verilog"), folder))


def synth(run: Run) -> Path:
    return run.build(
        "synth", lambda folder: fpga.synthesise(run.path("hls"), run.path("verilog"), folder)
    )


def scored(run: Run, name: str, tell: Tell = silent) -> Scored:
    """Let one backend answer the test rows; keeps its logits and its score."""
    recipe, artifact = run.recipe, BACKENDS[name][0]

    def make(folder: Path) -> None:
        rows = data.read(recipe, run.data.folder)["test"]
        opened = run.path(artifact)
        answers = score.ask(open_backend(name, opened), rows, recipe.data.task, progress=tell)
        card = Card.read(opened)
        tokenizer = base.load_tokenizer(run.path("adapter")) if recipe.tune else None
        targets = score.targets_of(rows, card.data, card.labels, tokenizer)
        result = score.score(answers, targets, rows, recipe.data.task, card.labels)
        result |= {"rows": answers.rows, "ms_per_row": 1000 * answers.seconds / answers.rows}
        result["threads"] = torch.get_num_threads()
        if recipe.data.task == "classify":
            result["confusion"] = score.confusion(answers.logits, targets, card.labels)
        if name in EXACT:
            result["random"] = fpga.compare_random(name, opened)
        np.save(folder / "logits.npy", answers.logits)
        (folder / "score.json").write_text(json.dumps(result, indent=1) + "\n")

    folder = run.build(f"score-{name}", make)
    return Scored(name, json.loads((folder / "score.json").read_text()), folder / "logits.npy")


def baseline(run: Run) -> dict[str, Any] | None:
    """What a simple classifier reaches: on the texts, or on the student's own features where there
    is no language model. None for what is not classified.
    """
    rows = data.read(run.recipe, run.data.folder)
    if run.recipe.data.task != "classify":
        return None
    if run.recipe.tune:
        return score.baseline(rows)
    inputs = Inputs.load(run.path("student"))
    return score.plain_baseline(rows, {k: inputs.read(rows[k]) for k in ("train", "test")})


def curve(run: Run) -> list[dict[str, Any]]:
    """The loss curve of the run's adapter: step, epoch, train_loss, valid_loss, learning_rate.

    Empty without one.
    """
    file = run.path("adapter") / "curve.json"
    return json.loads(file.read_text()) if run.recipe.tune else []
