"""The reply of the training conversation that is most like the question: retrieval, no model.

It gives replies and no probabilities, so it has a chrF and no loss, and is shown, not a floor.
"""

from typing import TYPE_CHECKING

from trivet.artifacts.artifact import Watch
from trivet.evaluate.baseline import BaselineArtifact, Rows
from trivet.plugins import ARTIFACTS
from trivet.records.score import Metric
from trivet.tasks import turns
from trivet.tasks.example import Row
from trivet.tasks.generate import Generate, chrf

if TYPE_CHECKING:
    from trivet.artifacts.run import Run


class NeighbourBaseline(BaselineArtifact):
    name = "baseline-neighbour"
    words = "the nearest neighbour's reply"
    task = Generate

    def score(self, run: "Run", rows: Rows, watch: Watch) -> tuple[None, Metric]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        from trivet.evaluate.score import REPLIES

        questions = rows["test"][:REPLIES]
        tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        train = [row for row in rows["train"] if turns.answer(row["messages"]) is not None]
        known = tfidf.fit_transform([_question(row) for row in train])
        likeness = tfidf.transform([_question(row) for row in questions]) @ known.T
        near = likeness.toarray().argmax(1)
        replies = [turns.answer(train[i]["messages"]) or "" for i in near]
        return None, chrf(replies, questions)


def _question(row: Row) -> str:
    return "\n".join(turn["content"] for turn in turns.before(row["messages"]))


ARTIFACTS.add(NeighbourBaseline())
