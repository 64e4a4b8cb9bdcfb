"""What every stage of a base must keep, asserted of a small copy of it.

Each function raises a UserError in one paragraph: what was seen, and what to do.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trivet import UserError
from trivet.artifacts.run import Run
from trivet.backends.sessions.language_model import LanguageModel
from trivet.plugins import TASKS
from trivet.records.card import Card
from trivet.records.score import Curve
from trivet.tasks.example import Example, Row
from trivet.tasks.tokenizer import eos_ids
from trivet.tuning.adapter import ADAPTER

# A sum of n float32 products in another order differs by up to n x 2^-24 of its size. The small
# copy's sums are over 128 features at most, and 16 of them lie behind each other in two layers.
ROUNDING = 16 * 128 * 2.0**-24
# int8 rounds a weight, and what it is multiplied with, by up to 1/254 of its block's largest value,
# in 16 products behind each other. Where that sends a token to another expert, a row is off by
# more; so half of the answers are held to it. A wrong scale or layout puts all of them off.
INT8_ROUNDING = 16 * 2 / 254


REPLY = 4  # tokens that are decoded


class Room(NamedTuple):
    """How far logits may lie apart, as a share of the largest, in which share of the answers."""

    share: float
    of: float = 1.0

    def apart(self, a: np.ndarray, b: np.ndarray) -> float:
        """The largest difference of the closest `of` of the answers; infinite where one is NaN."""
        if a.shape != b.shape:
            return math.inf
        each = np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(1)
        largest = float(np.sort(each)[math.ceil(self.of * len(each)) - 1])
        return largest if math.isfinite(largest) else math.inf

    def holds(self, a: np.ndarray, b: np.ndarray) -> bool:
        return self.apart(a, b) <= self.share * float(np.abs(a).max())


FLOAT32, INT8 = Room(ROUNDING), Room(INT8_ROUNDING, 0.5)


def positions(folder: Path, card: Card, remote: bool) -> None:
    """A row of `data.max_length` tokens has a position for each."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote)
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    kind = transformers.AutoModel
    long = torch.arange(card.max_length)[None] % 97 + 3
    usable = most if isinstance(most, int) and most > 0 else math.inf
    if usable >= card.max_length:
        model = kind.from_pretrained(folder, trust_remote_code=remote)
        try:
            with torch.inference_mode():
                model(input_ids=long, attention_mask=torch.ones_like(long))
            return
        except (IndexError, RuntimeError):  # RoBERTa counts from its pad token: two are no places
            usable = int(usable) - 2 if usable < math.inf else 0
    raise UserError(
        f"model.base has positions for {usable:,} tokens a row, and data.max_length = "
        f"{card.max_length:,}: set data.max_length to {usable} or less (longer rows are cut and "
        "counted), or give a base with more."
    )


def alone(
    session: LanguageModel,
    rows: Sequence[Row],
    together: np.ndarray,
    room: Room,
    stage: str,
    fix: str,
) -> None:
    """A row's answers are the same by itself, and in a padded batch in another order."""
    single = np.concatenate([session.answer([row])[0] for row in rows])
    turned = np.concatenate([*reversed(session.answer(rows[::-1]))])
    for words, other in (("by itself", single), ("in another order", turned)):
        if not room.holds(together, other):
            raise UserError(
                f"a small copy of it answers a row otherwise {words} than in a padded batch, as "
                f"{stage}: logits differ by {room.apart(together, other):.2g} of "
                f"{np.abs(together).max():.2g}. It reads the padding. {fix}"
            )


def same(
    before: np.ndarray, after: np.ndarray, room: Room, stages: tuple[str, str], fix: str
) -> float:
    """A stage gives the logits of the one before it; the difference as a share of the largest."""
    largest = float(np.abs(before).max())
    if not room.holds(before, after):
        raise UserError(
            f"a small copy of it answers otherwise as {stages[1]} than as {stages[0]}: logits "
            f"differ by {room.apart(before, after):.2g} of {largest:.2g}. {fix}"
        )
    return room.apart(before, after) / largest


def decoded(session: LanguageModel, rows: Sequence[Row], wanted: list[int], fix: str) -> list[int]:
    """The first tokens of a greedy reply, by whatever cache a stage has: those that the stage
    before it said, unless two logits tie there.
    """
    card = session.card
    example = session.task.tokenize(rows[:1], card, card.labels, session.tokenizer).examples[0]
    prompt = example.ids[: example.positions[0] + 1]
    reply = session.generate(prompt, REPLY)
    if not wanted or reply == wanted:
        return reply
    at = next((i for i, (a, b) in enumerate(zip(reply, wanted, strict=False)) if a != b), -1)
    prefix = [*prompt, *wanted[:at]] if at >= 0 else prompt
    logits = session.logits([Example(prefix, [len(prefix) - 1], [-1])])[0]
    apart = abs(float(logits[reply[at]] - logits[wanted[at]])) if at >= 0 else math.inf
    if apart > 2 * ROUNDING * float(np.abs(logits).max()):
        raise UserError(
            f"a small copy of it decodes otherwise than in the stage before: tokens {reply} for "
            f"{wanted}. A cache or a stop token is lost. {fix}"
        )
    return wanted


def shipped(folder: Path, session: LanguageModel) -> None:
    """An export's tokenizer, config and generation_config name the same pad and stop tokens."""
    pad = session.tokenizer.pad_token_id
    for name, key, wanted in (
        ("config.json", "pad_token_id", [pad]),
        ("generation_config.json", "pad_token_id", [pad]),
        ("generation_config.json", "eos_token_id", session.stops),
    ):
        talks = TASKS[session.card.task].talks
        if not (folder / name).exists() or (not talks and name != "config.json"):
            continue
        tree = json.loads((folder / name).read_text(encoding="utf-8"))
        tree = tree.get("text_config", tree) if key not in tree else tree
        if key in tree and eos_ids(tree[key]) != wanted:
            raise UserError(
                f"{name} of an export says {key} = {tree[key]}, and its tokenizer {wanted}. "
                "Give a base of another architecture."
            )


def first_stage(small: Run, session: LanguageModel, rows: Sequence[Row]) -> None:
    """Of the tuned model itself: it is what was tuned, and causal where it replies."""
    if TASKS[session.card.task].talks:
        causal(session, rows)
    as_tuned(small, session, rows)


def as_tuned(small: Run, session: LanguageModel, rows: Sequence[Row]) -> None:
    """Saved and opened again, the adapter has the validation loss that tuning ended with, which was
    measured in memory: no trained weight is lost on the way, a head's neither.
    """
    curve = Curve.read(small.path(ADAPTER)).points
    tuned = next(p.valid_loss for p in reversed(curve) if p.valid_loss is not None)
    card = session.card
    examples = session.task.tokenize(rows, card, card.labels, session.tokenizer).examples
    targets = np.array([t for e in examples for t in e.targets])
    logits = np.concatenate(session.answer(rows)).astype(np.float64)[targets >= 0]
    top = logits.max(1)
    norm = top + np.log(np.exp(logits - top[:, None]).sum(1))
    loss = float((norm - logits[np.arange(len(logits)), targets[targets >= 0]]).mean())
    # The loss moves by at most twice what a logit moves.
    if not abs(loss - tuned) <= 2 * ROUNDING * float(np.abs(logits).max()):
        raise UserError(
            f"a small copy of it, tuned, has a validation loss of {tuned:.6f}, and {loss:.6f} once "
            "its adapter is saved and opened again: not all that was trained is saved. Give a base "
            "of another architecture."
        )


def causal(session: LanguageModel, rows: Sequence[Row]) -> None:
    """What a token's logits say does not depend on the tokens after it."""
    card = session.card
    example = session.task.tokenize(rows[:1], card, card.labels, session.tokenizer).examples[0]
    ids = example.ids
    places = list(range(len(ids) - 1))
    other = [*ids[:-1], next(i for i in range(3, 9) if i != ids[-1])]
    first, second = (session.logits([Example(i, places, [-1] * len(places))]) for i in (ids, other))
    if not FLOAT32.holds(first, second):
        raise UserError(
            "it sees what follows a token: with the last token changed, the logits before it "
            f"differ by {FLOAT32.apart(first, second):.2g} of {np.abs(first).max():.2g}. It is an "
            f"encoder, or its causal mask is lost, and cannot learn data.task = "
            f"'{session.card.task}': give a decoder such as the packaged one, or another task."
        )
