"""What every task turns a row into: token ids, where an answer is read, and the right answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """`ids`: tokens. `positions`: where an answer is read. `targets`: the answers, -1 = unknown."""

    ids: list[int]
    positions: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Tokenized:
    """Examples of rows, and how many of them were cut at `data.max_length`. `said`: what else was
    done to rows, in words that follow a number -> how often.
    """

    examples: list[Example]
    truncated: int
    said: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What a backend said to rows.

    `logits` float32 [answers, classes] over all rows in order; `rows`: how many; `seconds` for all
    of them; `replies`: to the first rows, of a task that talks.
    """

    logits: np.ndarray
    rows: int
    seconds: float
    replies: list[str] = field(default_factory=list)
