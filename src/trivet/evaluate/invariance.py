"""Does a row's answer depend on the rows beside it? Then what the scorer measured is not what a
user gets, who asks one row at a time.

The logits of some rows, each alone and without padding, against the same rows in a batch as the
scorer makes it, in another order beside other rows, and padded on the left. Left padding needs a
model that takes positions (they follow from the mask); where it takes none, that is said.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.evaluate import tolerance
from trivet.records.stock import Invariance
from trivet.tasks.example import Example, Row

if TYPE_CHECKING:
    from pathlib import Path

    from trivet.backends.sessions.language_model import LanguageModel

ROWS, BATCH, OTHER = 32, 16, 5  # rows that are asked; in a batch, and in the other order
REPLIES = 8  # rows that are asked where each has a vocabulary's logits at each token


def measure(session: "LanguageModel", rows: Sequence[Row], folder: "Path") -> Invariance:
    """Of an opened backend, on the first rows."""
    card = session.card
    some = rows[: REPLIES if session.task.talks else ROWS]
    examples = session.task.tokenize(some, card, card.labels, session.tokenizer).examples
    alone = [session.logits([example]) for example in examples]
    share = tolerance.relative(folder, card, tolerance.unit(session))
    least = float(np.finfo(np.float32).tiny)  # logits that are all zero have no scale
    limits = [share * max(float(np.abs(logits).max()), least) for logits in alone]

    def furthest(logits: Sequence[np.ndarray]) -> tuple[float, float]:
        off = [float(np.abs(a - b).max()) for a, b in zip(alone, logits, strict=True)]
        return max(off), max(o / limit for o, limit in zip(off, limits, strict=True))

    order = np.random.default_rng(0).permutation(len(examples))
    left, note = _left(session, examples)
    apart = {
        "batch": furthest(_batches(session, examples, BATCH)),
        "order": furthest(_ordered(session, examples, order)),
        "left": furthest(left) if left else None,
    }
    return Invariance(
        rows=len(examples),
        note=note,
        max_abs_diff=max(pair[0] for pair in apart.values() if pair),
        **{name: pair[1] if pair else None for name, pair in apart.items()},
    )


def _batches(session: "LanguageModel", examples: Sequence[Example], size: int) -> list[np.ndarray]:
    out: list[np.ndarray] = []
    for at in range(0, len(examples), size):
        part = examples[at : at + size]
        out += _split(session.logits(part), part)
    return out


def _ordered(
    session: "LanguageModel", examples: Sequence[Example], order: np.ndarray
) -> list[np.ndarray]:
    moved = _batches(session, [examples[i] for i in order], OTHER)
    return [moved[i] for i in order.argsort()]


def _split(logits: np.ndarray, examples: Sequence[Example]) -> list[np.ndarray]:
    return np.split(logits, np.cumsum([len(e.positions) for e in examples])[:-1])


def _left(
    session: "LanguageModel", examples: Sequence[Example]
) -> tuple[list[np.ndarray] | None, str]:
    """The rows padded on the left, or why not."""
    import torch

    model: Any = getattr(session, "model", None)
    if model is None:
        return None, "not padded on the left: the graph takes no positions"
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(plain.forward).parameters:
        return None, "not padded on the left: the model takes no positions"
    pad = plain.config.pad_token_id
    out: list[np.ndarray] = []
    for at in range(0, len(examples), BATCH):
        part = examples[at : at + BATCH]
        length = max(len(e.ids) for e in part)
        short = [length - len(e.ids) for e in part]
        ids = [[pad or 0] * n + e.ids for n, e in zip(short, part, strict=True)]
        mask = torch.tensor([[0] * n + [1] * (length - n) for n in short]).to(model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor(ids).to(model.device),
                attention_mask=mask,
                position_ids=positions,
            ).logits.float()
        for row, n, example in zip(logits.cpu().numpy(), short, part, strict=True):
            pooled = row.ndim == 1  # the stock classification head has
            out.append(row[None] if pooled else row[[n + p for p in example.positions]])
    return out, ""
