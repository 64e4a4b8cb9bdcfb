"""The floor: what something simple reaches on the same rows, fitted on the same labels.

A tuned model that a simple one beats is not worth shipping, however faithfully it was exported. A
baseline is an artifact, a file each (evaluate/baselines/), and says of which task's rows it is. All
of them are shown; the strongest is the floor (gates.beats_baseline).

Not here: the comparison itself (parity.py).
"""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from trivet.artifacts.artifact import Artifact, Watch
from trivet.plugins import TASKS
from trivet.records.score import Baseline, Metric
from trivet.tasks.example import Row
from trivet.tasks.tally import Tally
from trivet.tasks.task import Task

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe

Rows = dict[str, list[Row]]


class BaselineArtifact(Artifact):
    """baseline.json, and tally.npz where it has the task's first metric.

    `words`: what it is, for the table. `task`: whose rows it answers, its subclasses' too.
    """

    kept_inside = True
    optional = True  # without the network there may be no package to fetch
    words: ClassVar[str]
    task: ClassVar[type[Task]]

    def __init__(self) -> None:
        self.title = f"fit {self.words} for {{recipe}}"

    def wanted(self, recipe: "Recipe") -> bool:
        """Where a language model is tuned; the chip's student alone is held to what it is fed."""
        return recipe.tune is not None and isinstance(TASKS[recipe.data.task], self.task)

    def settings(self, run: "Run") -> dict[str, Any]:
        drawn = run.recipe.data.model_dump(exclude={"pool", "prompt", "max_length"})
        return {"data": run.data.source_md5, "drawn": drawn}

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        return (type(self).__module__, *dataset.code_roots(recipe.data.task))

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.data import dataset

        rows = dataset.read(run.recipe.data, run.data.folder)
        tally, second = self.score(run, rows, watch)
        low, high = tally.interval() if tally else (None, None)
        value = tally.value if tally else None
        Baseline(name=self.words, value=value, low=low, high=high, second=second).write(folder)
        if tally:
            tally.save(folder)

    @abstractmethod
    def score(self, run: "Run", rows: Rows, watch: Watch) -> tuple[Tally | None, Metric]:
        """Fitted on train, scored on test: the task's first metric row by row, and its second."""


class Peer(NamedTuple):
    """A baseline's figures, and row by row where it has the task's metric."""

    figures: Baseline
    tally: Tally | None


def peers(run: "Run") -> list[Peer]:
    """The baselines that a run has."""
    simple = (a for a in run.artifacts() if isinstance(a, BaselineArtifact) and run.has(a))
    return [_peer(run.path(artifact)) for artifact in simple]


def _peer(folder: Path) -> Peer:
    figures = Baseline.read(folder)
    return Peer(figures, None if figures.value is None else Tally.load(folder))


def notes(lost: dict[Artifact, str]) -> list[str]:
    """A sentence for each baseline among what could not be built, and why."""
    simple = {a.words: why for a, why in lost.items() if isinstance(a, BaselineArtifact)}
    return [f"No figure of {words}: {why}." for words, why in simple.items()]


class Labelling(BaselineArtifact):
    """A baseline that gives each test row a label."""

    def score(self, run: "Run", rows: Rows, watch: Watch) -> tuple[Tally, Metric]:
        import numpy as np

        from trivet.tasks.classify import figures

        truth = np.array([row["label"] for row in rows["test"]])
        return figures(truth, np.array(self.answer(run, rows)))

    @abstractmethod
    def answer(self, run: "Run", rows: Rows) -> Any:
        """A label for each test row."""


def logistic_regression(strength: float) -> Any:
    """scikit-learn's; `strength`: C, the more the freer."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000, random_state=0)


def labels(rows: Rows) -> list[str]:
    return [row["label"] for row in rows["train"]]


def texts(rows: Rows, split: str) -> list[str]:
    return [row["text"] for row in rows[split]]
