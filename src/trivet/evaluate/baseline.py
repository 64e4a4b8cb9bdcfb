"""What a simple stock model reaches on the same rows, fitted on the same labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Artifact, Watch
from trivet.plugins import ARTIFACTS, TASKS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class BaselineArtifact(Artifact):
    """baseline.json; an empty folder where the task has none."""

    name = "baseline"
    title = "fit the baseline of {recipe}"
    kept_inside = True

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.tune is not None  # a student of labels alone has its own

    def settings(self, run: "Run") -> dict[str, Any]:
        return {
            "data": run.data.source_md5,
            "drawn": run.recipe.data.model_dump(exclude={"pool", "prompt", "max_length"}),
        }

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        return (type(self).__module__, *dataset.code_roots(recipe.data.task))

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.data import dataset

        rows = dataset.read(run.recipe.data, run.data.folder)
        if baseline := TASKS[run.recipe.data.task].baseline(rows):
            baseline.write(folder)


ARTIFACTS.add(BaselineArtifact())
