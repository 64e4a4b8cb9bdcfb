"""Each word by itself and its neighbours into logistic regression, for tags.

Not covered: the tags of the neighbours, which a conditional random field would see.
"""

from typing import TYPE_CHECKING

from trivet.artifacts.artifact import Watch
from trivet.evaluate.baseline import BaselineArtifact, Rows, logistic_regression
from trivet.plugins import ARTIFACTS
from trivet.records.score import Metric
from trivet.tasks.tag import Tag, figures
from trivet.tasks.tally import Tally

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

REACH = 2  # words to each side


class WindowBaseline(BaselineArtifact):
    name = "baseline-window"
    words = "words in a window + logistic regression"
    task = Tag

    def score(self, run: "Run", rows: Rows, watch: Watch) -> tuple[Tally, Metric]:
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.pipeline import make_pipeline

        model = make_pipeline(DictVectorizer(), logistic_regression(10.0))
        train = [word for row in rows["train"] for word in features(row["tokens"])]
        model.fit(train, [tag for row in rows["train"] for tag in row["tags"]])
        guess = [model.predict(features(row["tokens"])).tolist() for row in rows["test"]]
        return figures([row["tags"] for row in rows["test"]], guess)


def features(tokens: list[str]) -> list[dict[str, str]]:
    """Of each word: itself and its neighbours in lower case, how it begins, ends and is written."""
    low = [token.casefold() for token in tokens]
    edge = [""] * REACH
    line = [*edge, *low, *edge]
    out = []
    for at, (token, word) in enumerate(zip(tokens, low, strict=True)):
        near = {f"word {n - REACH}": line[at + n] for n in range(2 * REACH + 1)}
        shape = "".join("9" if c.isdigit() else "A" if c.isupper() else "a" for c in token[:4])
        out.append(near | {"begins": word[:3], "ends": word[-3:], "written": shape})
    return out


ARTIFACTS.add(WindowBaseline())
