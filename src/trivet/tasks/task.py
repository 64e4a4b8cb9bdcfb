"""What a task is: from a file's columns to the way in which a person uses the result.

Every task turns a row into the same thing, token ids with the positions whose logits are answers
(`example.py`). The loop, the scorer and every backend work on that alone; whatever else differs
between tasks is said here, by a file of the task's own.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from trivet.records.answer import Answer
from trivet.records.score import Metric
from trivet.tasks.example import Answers, Example, Row, Tokenized
from trivet.tasks.tally import Tally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trivet.config.data import Data
    from trivet.data.cells import Cells
    from trivet.records.card import Card


class Shape(NamedTuple):
    """Columns that make a file of a task.

    `columns`: all of them must be there. `kind`: the shape's name in words. `row`: a row's cells in
    the task's own form, which one of its shapes reads too. `format`: how a recipe names the shape.
    `optional`: columns that are read where they are there. `unread`: columns of the same format
    that cannot be read yet -> why. `beside`: a check of each row beside the first one, or None.
    `refused`: why rows of this shape cannot be trained at all; it is there to be recognised.
    """

    columns: tuple[str, ...]
    kind: str
    row: "Callable[[Cells], Row]"
    format: str = ""
    optional: tuple[str, ...] = ()
    unread: Mapping[str, str] = MappingProxyType({})
    beside: "Callable[[Cells, Row, Row], None] | None" = None
    refused: str = ""


class Task(ABC):
    """A registered task. Class attributes say what it is, methods what is done with its rows.

    `shapes`: the files it reads, the first that fits. `inputs`: what of a row is the question, for
    whoever must not see its answer. `prompt`: where the recipe names none;
    `first_prompt`: that of cards of version 1, where it was fixed.
    `goal`: what a model is tuned to do, after "to". `head`: transformers' auto class; `peft_type`:
    PEFT's name of it. `new_head`: whether that head is new, with a row for each label. `pools`:
    whether it reads one state for the whole text. `taught`:
    whether a student can learn its answers from a teacher: one label a row. `talks`: whether its
    answer is a reply. `metric`: its first metric; `lower_is_better`: of that metric.
    """

    name: ClassVar[str]
    shapes: ClassVar[tuple[Shape, ...]]
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    prompt: ClassVar[str] = "{text}"
    first_prompt: ClassVar[str] = ""
    goal: ClassVar[str] = "answer"
    head: ClassVar[str]
    peft_type: ClassVar[str]
    new_head: ClassVar[bool] = True
    pools: ClassVar[bool] = False
    taught: ClassVar[bool] = False
    talks: ClassVar[bool] = False
    metric: ClassVar[str]
    lower_is_better: ClassVar[bool] = False

    # Rows.

    def labels(self, rows: Iterable[Row]) -> list[str]:
        """What a model of the task must tell apart, sorted; nothing where there is no new head."""
        return []

    def classes(self, row: Row) -> list[str]:
        """Of what kind a row is: each kind in valid and test must be one that train has.

        Nothing for a row of another task. One kind at most where the task is `taught`.
        """
        return []

    def group(self, row: Row) -> str:
        """Rows of a group ask the same thing, so they stay in one split."""
        return json.dumps({key: row[key] for key in self.inputs if key in row})

    def suffice(self, rows: Sequence[Row]) -> str | None:
        """Why nothing can be learnt from these rows, as a sentence, or None."""
        return None

    # Tokens.

    def tokenize(
        self,
        rows: Iterable[Row],
        data: "Data | Card",
        labels: Sequence[str],
        tokenizer: "PreTrainedTokenizerBase",
    ) -> Tokenized:
        """Rows as examples of at most `data.max_length` tokens; what has no label has target -1."""
        index = {label: i for i, label in enumerate(labels)}
        pairs = [self.example(row, data, index, tokenizer) for row in rows]
        return Tokenized([example for example, _ in pairs], sum(cut for _, cut in pairs))

    @abstractmethod
    def example(
        self,
        row: Row,
        data: "Data | Card",
        index: dict[str, int],
        tokenizer: "PreTrainedTokenizerBase",
    ) -> tuple[Example, bool]:
        """One row as an example, and whether it was cut. Raises UserError naming the key."""

    def trained(self, example: Example) -> set[int]:
        """The places in `ids` of the tokens that carry loss, for a person to look at."""
        return set(example.positions)

    # Scores.

    @abstractmethod
    def metrics(
        self, answers: Answers, targets: list[list[int]], rows: Sequence[Row], labels: list[str]
    ) -> tuple[Tally, Metric]:
        """The metric, row by row, and a second one over all rows.

        `answers.logits` float32 [answers, classes]; `targets`: the right classes, row by row.
        """

    def confusion(self, logits: np.ndarray, targets: list[list[int]]) -> list[list[int]] | None:
        """Counts [truth][answer] over all labels, where that is a picture one can read."""
        return None

    # Use.

    @abstractmethod
    def question(self, text: str) -> Row:
        """A row without its answer, from what a person typed. ValueError where it cannot be one."""

    def text(self, row: Row) -> str:
        """What a person types to ask this row: `question` the other way round."""
        return str(row["text"])

    def answer(self, logits: np.ndarray, row: Row, labels: list[str]) -> Answer:
        """What the logits [answers, classes] of one row say, as its user reads it."""
        raise TypeError(f"the answer of '{self.name}' is a reply")

    def reply(self, text: str) -> Answer:
        """A reply as its user reads it, of a task that talks."""
        raise TypeError(f"the answer of '{self.name}' is no reply")

    @abstractmethod
    def trial(self, run: str, text: str, backend: str) -> str:
        """The command that tries a run."""

    @abstractmethod
    def snippet(self, runtime: str, folder: str, prompt: str, text: str) -> str:
        """Python that answers `text` from an artifact's folder without Trivet.

        `runtime`: `peft`, `transformers` or an ONNX file's name.
        """
