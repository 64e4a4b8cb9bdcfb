"""Classification: one label a row, read at the last token of the prompt.

A row is a text, or numbers [features], [length, channels] or token ids [length] for the chip's
student alone. Not covered: several labels a row.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from trivet import UserError
from trivet.data import numbers
from trivet.plugins import TASKS
from trivet.records.answer import Answer
from trivet.records.score import Metric
from trivet.tasks import snippets
from trivet.tasks.example import Answers, Example, Row
from trivet.tasks.tally import Tally, bootstrap
from trivet.tasks.task import Shape, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trivet.data.cells import Cells


class Choice(BaseModel):
    label: str
    probability: float


class Label(Answer):
    """The label, and the three most probable ones."""

    label: str
    best: list[Choice]

    def lines(self) -> list[tuple[str, ...]]:
        return [(f"{c.probability:.1%}", c.label) for c in self.best]

    def cells(self) -> dict[str, Any]:
        """With the label's own probability in a column of its own."""
        cells = super().cells()
        return {"label": self.label, "probability": self.best[0].probability, **cells}


class Classify(Task):
    name = "classify"
    inputs = ("text", "x")
    goal = "choose one label for each row"
    head = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    pools = True
    taught = True
    metric = "accuracy"
    stock = "trivet.stock.classify"

    def labels(self, rows: Iterable[Row]) -> list[str]:
        return sorted({row["label"] for row in rows if "label" in row})

    def classes(self, row: Row) -> list[str]:
        return [row["label"]] if "label" in row else []

    def suffice(self, rows: Sequence[Row]) -> str | None:
        labels = self.labels(rows)
        if len(labels) < 2:
            return (
                f"column 'label': each row has the label '{labels[0]}'; a classifier needs at "
                "least two. Is it the right column?"
            )
        return None

    def example(
        self, row: Row, data: Any, index: dict[str, int], tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[Example, bool]:
        text = row["text"]
        ids = tokenizer(data.prompt.replace("{text}", text))["input_ids"]
        cut = len(ids) > data.max_length
        if cut:  # the text is cut, never the words of the prompt around it
            offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)[
                "offset_mapping"
            ]
            keep = data.max_length - (len(ids) - len(offsets)) - 1
            if keep < 1:
                raise UserError(
                    f"data.max_length = {data.max_length} leaves no room for a row beside "
                    "data.prompt: raise it."
                )
            ids = tokenizer(data.prompt.replace("{text}", text[: offsets[keep - 1][1]]))[
                "input_ids"
            ]
        # The stock head of a decoder reads the last token that is not the pad token.
        last = max((i for i, token in enumerate(ids) if token != tokenizer.pad_token_id), default=0)
        return Example(ids, [last], [index.get(row.get("label", ""), -1)]), cut

    def metrics(
        self, answers: Answers, targets: list[list[int]], rows: Sequence[Row], labels: list[str]
    ) -> tuple[Tally, Metric]:
        return figures(np.concatenate(targets), answers.logits.argmax(1))

    def confusion(self, logits: np.ndarray, targets: list[list[int]]) -> list[list[int]]:
        from sklearn.metrics import confusion_matrix

        classes = range(logits.shape[1])
        matrix = confusion_matrix(np.concatenate(targets), logits.argmax(1), labels=classes)
        return matrix.tolist()  # type: ignore[no-any-return]

    def question(self, text: str) -> Row:
        return {"text": text}

    def text(self, row: Row) -> str:
        return row["text"] if "text" in row else json.dumps(row["x"])

    def answer(self, logits: np.ndarray, row: Row, labels: list[str]) -> Answer:
        odds = np.exp(logits[0].astype(np.float64) - logits[0].max())
        odds /= odds.sum()
        best = [
            Choice(label=labels[i], probability=float(odds[i])) for i in odds.argsort()[::-1][:3]
        ]
        return Label(label=best[0].label, best=best)

    def trial(self, run: str, text: str, backend: str) -> str:
        return snippets.predict(run, text, backend)

    def snippet(self, runtime: str, folder: str, prompt: str, text: str) -> str:
        encode = f'ids = tokenizer({prompt!r}.replace("{{text}}", {text!r}))["input_ids"]'
        return snippets.python(self, runtime, folder, encode, "print(labels[logits[0].argmax()])")


def figures(truth: np.ndarray, guess: np.ndarray) -> tuple[Tally, Metric]:
    """Accuracy, and macro-F1 over the labels that occur (scikit-learn)."""
    from sklearn.metrics import f1_score

    macro = f1_score(truth, guess, average="macro", zero_division=0.0)
    low, high = bootstrap(_macro_f1, truth, guess)
    second = Metric(name="macro_f1", value=float(macro), low=low, high=high)
    return Tally.right(truth == guess), second


def _macro_f1(truth: np.ndarray, guess: np.ndarray, axis: int) -> np.ndarray:
    """The same for many draws at once: the mean, over labels that occur, of 2 right / (true +
    answered).
    """
    right, both = [], []
    for label in np.union1d(truth, guess):
        true, answer = truth == label, guess == label
        right.append(2 * (true & answer).sum(axis))
        both.append(true.sum(axis) + answer.sum(axis))
    above, below = np.array(right, float), np.array(both, float)
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio.sum(0) / (below > 0).sum(0)


def _text(cells: "Cells") -> Row:
    return {"text": cells.trimmed("text"), "label": cells.trimmed("label")}


def _numbers(cells: "Cells") -> Row:
    x = numbers.checked(cells.row.get("x"), cells.bad)
    return {"x": x, "label": cells.trimmed("label")}


Classify.shapes = (
    Shape(("text", "label"), "text and label", _text, "text-label"),
    Shape(("x", "label"), "numbers and label", _numbers, "numbers", beside=numbers.alike),
)
TASKS.add(Classify())
