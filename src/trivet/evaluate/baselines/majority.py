"""The most frequent label or tag of the training rows, whatever is asked."""

from collections import Counter
from typing import TYPE_CHECKING

from trivet.artifacts.artifact import Watch
from trivet.evaluate.baseline import BaselineArtifact, Labelling, Rows, labels
from trivet.plugins import ARTIFACTS, TASKS
from trivet.records.score import Metric
from trivet.tasks.classify import Classify
from trivet.tasks.tag import Tag, figures
from trivet.tasks.tally import Tally

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class MajorityLabel(Labelling):
    name = "baseline-majority"
    words = "the majority label"
    task = Classify

    def wanted(self, recipe: "Recipe") -> bool:
        return isinstance(TASKS[recipe.data.task], self.task)  # of numbers too

    def answer(self, run: "Run", rows: Rows) -> list[str]:
        ((label, _),) = Counter(labels(rows)).most_common(1)
        return [label] * len(rows["test"])


class MajorityTag(BaselineArtifact):
    name = "baseline-majority-tag"
    words = "the majority tag"
    task = Tag

    def score(self, run: "Run", rows: Rows, watch: Watch) -> tuple[Tally, Metric]:
        counts = Counter(tag for row in rows["train"] for tag in row["tags"])
        ((tag, _),) = counts.most_common(1)
        truth = [row["tags"] for row in rows["test"]]
        return figures(truth, [[tag] * len(tags) for tags in truth])


ARTIFACTS.add(MajorityLabel())
ARTIFACTS.add(MajorityTag())
