"""What a run's rows become as tokens: how long, what is cut, what is not learnt, what looks odd.

Rows are tokenized chunk by chunk, for there may be more than memory holds.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trivet import UserError
from trivet.tasks.example import Example, Row, Tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trivet.config.data import Data
    from trivet.records.card import Card
    from trivet.tasks.task import Task

CHUNK = 1000  # rows
TRAINED, TEST = ("train", "valid"), "test"  # splits


class TokenCounts:
    """`lengths`: of each example, tokens; `first`: three training examples; `asked`: answers of the
    test rows, of which `unscored` have none to be measured by; `said`: of how many rows something
    is to be said; `marked`: texts with control tokens in them, and the first.
    """

    def __init__(self, task: "Task", tokenizer: "PreTrainedTokenizerBase") -> None:
        self.task, self.tokenizer = task, tokenizer
        self.lengths, self.truncated, self.asked, self.unscored = array("q"), 0, 0, 0
        self.first: list[Example] = []
        self.said: Counter[str] = Counter()
        self.marked, self.words, self.marked_text = 0, Counter[str](), ""

    def count(
        self, rows: Mapping[str, Sequence[Row]], data: "Data", card: "Card", labels: list[str]
    ) -> None:
        """All splits. UserError where nothing of one is learnt or measured by."""
        for split, part in rows.items():
            learns, said = False, Counter[str]()
            for at in range(0, len(part), CHUNK):
                chunk = part[at : at + CHUNK]
                tokenize: Any = self.task.training if split in TRAINED else self.task.tokenize
                settings = data if split in TRAINED else card
                tokenized = tokenize(chunk, settings, labels, self.tokenizer)
                said.update(tokenized.said)
                learns |= self._add(split, tokenized)
                self._look_for_markup(chunk)
            self.said.update(said)
            if part and not learns and split in (*TRAINED, TEST):
                why = "".join(f" {n:,} {words}." for words, n in said.items() if n)
                raise UserError(
                    f"data.source = '{data.source}': no row of the {split} split has a reply or "
                    f"label that is learnt or measured by.{why}"
                )

    def _add(self, split: str, tokenized: Tokenized) -> bool:
        """Whether one of the examples has a known answer."""
        learns = False
        for example in tokenized.examples:
            known = any(target >= 0 for target in example.targets)
            learns |= known
            self.lengths.append(len(example.ids))
            self.asked += len(example.positions) * (split == TEST)
            self.unscored += not known and split == TEST
            if split == TRAINED[0] and len(self.first) < 3:
                self.first.append(example)
        self.truncated += tokenized.truncated
        return learns

    def _look_for_markup(self, rows: Sequence[Row]) -> None:
        from trivet.tasks.tokenizer import markup

        for text in _texts(list(rows)):
            if words := markup(text, self.tokenizer):
                self.marked += 1
                self.words.update(words)
                self.marked_text = self.marked_text or text

    def notes(self) -> list[str]:
        """What of the rows is not learnt or not scored as it stands, in words."""
        notes = [f"{n:,} {words}." for words, n in self.said.items() if n]
        if self.unscored:
            unscored = f"{self.unscored:,} test rows have no reply to be measured by"
            notes.append(f"{unscored}, and are not scored.")
        if self.marked:
            names = " ".join(name for name, _ in self.words.most_common(5))
            notes.append(
                f"{self.marked:,} texts hold markup that the tokenizer reads as control tokens "
                f"({names}), as every runtime will; the first is {self.marked_text[:80]!r}. Take "
                "it out, or write it otherwise, where it is meant as text."
            )
        return notes


def _texts(value: Any) -> Iterator[str]:
    """All texts inside rows, whatever their form."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
