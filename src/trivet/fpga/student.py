"""The student as an artifact: what the chip runs in place of the language model."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.fpga.teacher import Teacher, logits
from trivet.plugins import ARTIFACTS, TASKS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe

CHIP = ("part", "max_cycles", "max_lut", "search_trials")  # of [fpga]; no student depends on them


class Student(Artifact):
    """Both networks, the inputs, the card and fpga.json; a registered model's own student where the
    recipe names one, else one that learns from the tuned model's answers, or from labels where
    there is none.
    """

    name = "student"
    title = "distil {recipe}"
    on_gpu = True
    timeout = 6 * HOUR

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.fpga.enabled

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        teachers = (a for a in ARTIFACTS.values() if isinstance(a, Teacher) and a.wanted(recipe))
        return tuple(teachers)[:1]

    def settings(self, run: "Run") -> dict[str, Any]:
        from trivet.fpga import own_module

        fpga = run.recipe.fpga
        return {
            "data": run.data.source_md5,
            "drawn": run.recipe.data.model_dump(),
            "fpga": fpga.model_dump(exclude={"enabled", *CHIP}),
            "files": own_module.identity(fpga, run.root),
        }

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        return (type(self).__module__, *dataset.code_roots(recipe.data.task))

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
        labels, answers = task.labels(rows["train"]), logits(run, self)
        with recipe_keys():
            learnt = training.learn(recipe.fpga, run.root, rows, labels, answers, watch.on_progress)
        learnt.network.save(folder)
        learnt.fixed.save(folder)
        learnt.inputs.write(folder)
        learnt.facts.write(folder)
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
