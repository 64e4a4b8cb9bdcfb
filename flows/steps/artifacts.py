"""How each artifact of a run is made, in the order of the way: adapter, merged, onnx, student, hls,
rtl, synth, and the answers of every backend. Each is a folder in the run's store, whole or absent.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import data, export, fpga, score, train
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


def student(run: Run, tell: Tell = silent) -> Path:
    """Train the chip's student: on the tuned model's answers where there is one, else on labels."""
    rows = data.read(run.recipe, run.data.folder)

    def make(folder: Path) -> None:
        soft, done = None, 0.0
        if run.recipe.tune:
            teacher, pool = open_backend("merged", run.path("merged")), rows["pool"] + rows["train"]
            answers = score.ask(teacher, pool, "classify", progress=lambda share: tell(0.8 * share))
            soft, done = answers.logits, 0.8
        fpga.learn(
            run.recipe, run.root, rows, soft, folder, lambda share: tell(done + (1 - done) * share)
        )

    return run.build("student", make)


def hls(run: Run) -> Path:
    return run.build(
        "hls", lambda folder: fpga.compile_hls(run.recipe, run.path("student"), folder)
    )


def rtl(run: Run) -> Path:
    rows = data.read(run.recipe, run.data.folder)["test"]
    return run.build(
        "rtl", lambda folder: fpga.compile_rtl(run.recipe, rows, run.path("student"), folder)
    )


def synth(run: Run) -> Path:
    return run.build("synth", lambda folder: fpga.synthesise(run.path("rtl"), folder))


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
