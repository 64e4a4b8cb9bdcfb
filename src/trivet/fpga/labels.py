"""The tuned model's answers to rows that nobody labelled: what a student learns from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.backends.adapter import ADAPTED
from trivet.backends.backend import Backend
from trivet.backends.merged import WHOLE
from trivet.backends.onnx import ONNX_FP32
from trivet.fpga.teacher import LOGITS, Teacher
from trivet.plugins import ARTIFACTS, BACKENDS, TASKS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class Labels(Teacher):
    """Of the run's own tuned model, by the backend that answers quickest here."""

    name = "labels"
    title = "label the pool of {recipe}"
    on_gpu = True
    kept_inside = True
    timeout = 6 * HOUR

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.fpga.enabled and recipe.tune is not None

    def decide(self, recipe: "Recipe", root: Path) -> dict[str, str]:
        from trivet.tuning.batch import best_device

        # a CPU answers through ONNX Runtime in half the time (merged 29 ms a row, onnx-fp32 17)
        order: tuple[Backend, ...] = (WHOLE, ADAPTED)
        if best_device() == "cpu":
            order = (ONNX_FP32, *order)
        return {"backend": next(b.name for b in order if b.wanted(recipe))}

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (BACKENDS[self.decide(recipe, Path())["backend"]].artifact,)

    def settings(self, run: "Run") -> dict[str, Any]:
        data = run.recipe.data
        return {"data": run.data.source_md5, "drawn": data.model_dump(exclude={"test"})}

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        return (type(self).__module__, *dataset.code_roots(recipe.data.task))

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.data import dataset
        from trivet.evaluate.score import ask

        rows = dataset.read(run.recipe.data, run.data.folder)
        teacher = BACKENDS[run.decided[self.name]["backend"]]
        session = teacher.open(run.path(teacher.artifact))
        task = TASKS[run.recipe.data.task]
        answers = ask(session, rows["pool"] + rows["train"], task, watch.on_progress)
        np.save(folder / LOGITS, answers.logits)


LABELS = ARTIFACTS.add(Labels())
