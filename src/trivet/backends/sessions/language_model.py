"""What the language-model backends share once they are open: tokens in, the answers by row out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trivet.plugins import TASKS
from trivet.records.card import Card
from trivet.tasks.example import Example, Row
from trivet.tasks.turns import Turn, prompt_ids, prompted, reply_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LanguageModel(ABC):
    """`stops`: the tokens that end a reply."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", card: Card, stops: Sequence[int]
    ) -> None:
        self.tokenizer, self.card, self.task = tokenizer, card, TASKS[card.task]
        self.stops = list(stops)

    def row(self, text: str) -> Row | None:
        return None

    def answer(self, rows: Sequence[Row]) -> list[np.ndarray]:
        card = self.card
        examples = self.task.tokenize(rows, card, card.labels, self.tokenizer).examples
        ends = np.cumsum([len(e.positions) for e in examples])[:-1]
        return np.split(self.logits(examples), ends)

    def reply(self, messages: list[Turn], tokens: int = 64) -> str:
        """The greedy reply to a conversation, at most `tokens` long."""
        asked = prompted([*messages, {"role": "assistant", "content": ""}], self.card.prompt)[:-1]
        ids = prompt_ids(asked, self.tokenizer)
        return reply_text(ids, self.generate(ids, tokens), self.tokenizer)

    def generate(self, ids: list[int], tokens: int) -> list[int]:
        """The greedy tokens after `ids`, up to a stop token. No key-value cache."""
        start = len(ids)
        while len(ids) < start + tokens:
            token = int(self.logits([Example(ids, [len(ids) - 1], [-1])])[0].argmax())
            if token in self.stops:
                break
            ids = [*ids, token]
        return ids[start:]

    @abstractmethod
    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """The answers of a batch, float [answers, classes]."""
