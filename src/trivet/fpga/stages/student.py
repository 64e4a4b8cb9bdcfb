"""The student, in float and in fixed point: what the chip runs in place of the language model."""

import shutil
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.backends.backend import FPGA, Backend, Session
from trivet.backends.gate import Points
from trivet.backends.merged import WHOLE
from trivet.fpga.labels import LABELS, teacher
from trivet.plugins import ARTIFACTS, BACKENDS, TASKS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe
    from trivet.fpga.inputs import Inputs
    from trivet.tasks.example import Row

CHIP = ("part", "max_cycles", "max_lut", "search_trials")  # of [fpga]; no student depends on them


class Student(Artifact):
    """Both networks, the inputs, the card and fpga.json; a registered model's own student where the
    recipe names one, else one that learns from the tuned model's answers, or from labels where
    there is none (then baseline.json too).
    """

    name = "student"
    title = "distil {recipe}"
    on_gpu = True
    timeout = 6 * HOUR

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.fpga.enabled

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (LABELS,) if LABELS.wanted(recipe) else ()

    def settings(self, run: "Run") -> dict[str, Any]:
        from trivet.fpga import own_module

        fpga = run.recipe.fpga
        return {
            "data": run.data.source_md5,
            "drawn": run.recipe.data.model_dump(),
            "fpga": fpga.model_dump(exclude={"enabled", *CHIP}),
            "files": own_module.identity(fpga, run.root),
        }

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.data import dataset
        from trivet.fpga import training
        from trivet.fpga.errors import recipe_keys
        from trivet.records.card import Base, Card

        recipe = run.recipe
        rows, task = dataset.read(recipe.data, run.data.folder), TASKS[recipe.data.task]
        if recipe.fpga.student:
            shutil.copytree(registered(run.root, recipe), folder, dirs_exist_ok=True)
            return
        labels, answers = task.labels(rows["train"]), teacher(run)
        with recipe_keys():
            learnt = training.learn(recipe.fpga, run.root, rows, labels, answers, watch.on_progress)
        learnt.network.save(folder)
        learnt.fixed.save(folder)
        learnt.inputs.write(folder)
        learnt.facts.write(folder)
        if answers is None:
            training.baseline(learnt.inputs, rows).write(folder)
        Card(
            task=task.name,
            prompt=recipe.data.prompt,
            max_length=recipe.data.max_length,
            labels=labels,
            model=Base(base=recipe.model.base),
        ).write(folder)


STUDENT = ARTIFACTS.add(Student())


def registered(root: Path, recipe: "Recipe") -> Path:
    """Where the student of the registered model that the recipe names lies, once it is fetched."""
    return root / ".trivet" / "registered" / recipe.fpga.student.replace("/", "-")


class StudentSession:
    """A student, whichever way it computes, behind the protocol of all backends."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray], inputs: "Inputs") -> None:
        self.logits, self.inputs = logits, inputs

    def answer(self, rows: "Sequence[Row]") -> list[np.ndarray]:
        return list(self.logits(self.inputs.encode(rows))[:, None])

    def row(self, text: str) -> "Row | None":
        return self.inputs.row(text)


class StudentBackend(Backend):
    target = FPGA
    artifact = STUDENT

    def open(self, folder: Path, threads: int = 0) -> Session:
        from trivet.fpga.inputs import Inputs

        return StudentSession(self.network(folder).logits, Inputs.read(folder))

    @abstractmethod
    def network(self, folder: Path) -> Any:
        """What has `logits`: rows [n, …] to float32 [n, classes]."""


class StudentFloat(StudentBackend):
    name = "student-float"
    reference = WHOLE
    gate = Points("student_points", 6.0)
    words = "student, float"

    def network(self, folder: Path) -> Any:
        from trivet.hw.network import Network

        return Network.load(folder)


class StudentFixed(StudentBackend):
    name = "student-fixed"
    gate = Points("fixed_points", 2.0)
    words = "student, fixed point"
    preferred = True

    def network(self, folder: Path) -> Any:
        from trivet.hw.fixed import FixedNetwork

        return FixedNetwork.load(folder)


FLOAT = BACKENDS.add(StudentFloat())
StudentFixed.reference = FLOAT
FIXED = BACKENDS.add(StudentFixed())
