"""The rows of a run: drawn from one version of a source, the same ones every time.

Not here: which version that is (`versions.py`), how a file was split (`split.py`), tokens. What
tunes a model reads this module and none of those, so they cannot change its key.
"""

import random
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from trivet import UserError
from trivet.config.data import Data
from trivet.data import jsonl
from trivet.data.cells import Row
from trivet.plugins import TASKS

Splits = dict[str, list[Row]]
Draw = Mapping[str, Sequence[Row]]  # of rows that may still lie on disk

SPLITS = ("train", "valid", "test")


def read(want: Data, folder: Path) -> Splits:
    """The rows of a run from data/<source>, as `pick` draws them."""
    return {name: list(part) for name, part in stream(want, folder).items()}


def stream(want: Data, folder: Path) -> Draw:
    """The same, each row read when it is asked for: what is drawn may be larger than memory."""
    return pick(want, {name: jsonl.lines(folder / f"{name}.jsonl") for name in SPLITS})


def pick(want: Data, splits: Draw) -> Draw:
    """The rows of a run, out of all rows: train, valid, test, and the pool of a taught task.

    train: `data.rows` of the train split (0 = all), drawn by `data.seed`, balanced by label where
    rows have one. pool: up to `data.pool` of the other train rows, without their answers. test: the
    first `data.test`. valid: a fifth as many as train but at least 100, because it is answered
    after each epoch and only has to tell one epoch from another. All are in random order on disk.
    """
    train, task = splits["train"], TASKS[want.task]
    by_label: dict[str, array[int]] = {}
    for n, row in enumerate(train):
        by_label.setdefault(label(row), array("q")).append(n)
    labels = by_label.keys() - {""}
    if 0 < want.rows < len(labels):
        raise UserError(
            f"data.rows = {want.rows}, but {want.source} has {len(labels)} labels and each needs a "
            f"row to be learned: set data.rows to {len(labels)} or more, or to 0 for all rows."
        )
    rng = random.Random(want.seed)
    order = _balanced(by_label, rng)
    ours, others = (order[: want.rows], order[want.rows :]) if want.rows else (order, array("q"))
    rows = {
        "train": take(train, rng.sample(ours, len(ours))),
        "valid": splits["valid"][: max(100, len(ours) // 5)],
        "test": splits["test"][: want.test],
    }
    if task.taught:
        pool = take(train, rng.sample(others, min(want.pool, len(others))))
        rows["pool"] = shaped(pool, lambda row: {k: row[k] for k in task.inputs if k in row})
    return rows


def take(rows: Sequence[Row], order: Iterable[int]) -> Sequence[Row]:
    return rows.take(order) if isinstance(rows, jsonl.Lines) else [rows[n] for n in order]


def shaped(rows: Sequence[Row], form: Callable[[Row], Row]) -> Sequence[Row]:
    return rows.shaped(form) if isinstance(rows, jsonl.Lines) else [form(row) for row in rows]


def code_roots(task: str) -> tuple[str, ...]:
    """Modules that decide, beside this one, which rows `read` draws for a task: its own, and those
    of the tasks that `label` asks before it.
    """
    asked = [TASKS[task]]
    for other in TASKS.values():
        if other.name == task:
            break
        asked += [other] if other.taught else []
    return tuple(type(one).__module__ for one in asked)


def label(row: Row) -> str:
    """A row's one label, of the first task that gives rows one; "" where it has none."""
    kinds = (task.classes(row) for task in TASKS.values() if task.taught)
    return next((names[0] for names in kinds if names), "")


def _balanced(by_label: "dict[str, array[int]]", rng: random.Random) -> "array[int]":
    """All rows in an order whose every beginning holds the labels as evenly as they last."""
    names = sorted(by_label)
    rng.shuffle(names)
    for name in names:
        rng.shuffle(by_label[name])
    longest = max(map(len, by_label.values()), default=0)
    return array(
        "q", (by_label[n][i] for i in range(longest) for n in names if i < len(by_label[n]))
    )
