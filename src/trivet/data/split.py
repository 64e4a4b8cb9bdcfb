"""Splits: which rows train, which choose the best epoch, which judge, and none of them twice.

A row that is in train and in test makes every figure after it a lie. So repeated rows are taken out
across splits, rows that ask the same thing stay together, and each label is in every split.

Not here: reading rows (`rows.py`), a source's own way to split (`sources/`).
"""

import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from trivet import UserError
from trivet.data.cells import Row
from trivet.data.dataset import SPLITS, Splits, label
from trivet.data.rows import Table
from trivet.plugins import TASKS
from trivet.records.dataset import DataCard

if TYPE_CHECKING:
    from trivet.tasks.task import Task

SEED = 0  # of draws and splits: fixed, so that data do not depend on the recipe


class Parts(NamedTuple):
    """Splits without repeated rows; how many were removed, and how many of those were at odds:
    they had another label than the row that stays.
    """

    splits: Splits
    removed: int
    conflicts: int


def dedupe(splits: Splits) -> Parts:
    """Drop repeated rows: train loses to valid, valid to test."""
    seen: dict[str, str] = {}
    rest: Splits = {}
    removed = conflicts = 0
    for name in reversed(SPLITS):
        rest[name] = []
        for row in splits[name]:
            if key(row) in seen:
                removed += 1
                conflicts += seen[key(row)] != label(row)
            else:
                seen[key(row)] = label(row)
                rest[name].append(row)
    return Parts({name: rest[name] for name in SPLITS}, removed, conflicts)


def key(row: Row) -> str:
    """What makes two rows the same row: the text or words, the numbers, the whole conversation."""
    return json.dumps([row[name] for name in _task(row).inputs if name in row])


def _task(row: Row) -> "Task":
    """The first task whose inputs the row has."""
    for task in TASKS.values():
        if any(name in row for name in task.inputs):
            return task
    raise ValueError(f"a row of {', '.join(row)} has the inputs of no registered task")


def classes(row: Row) -> list[str]:
    """Of what kind a row is, as the first task says that can."""
    kinds = (task.classes(row) for task in TASKS.values())
    return next((names for names in kinds if names), [])


def shares(count: int) -> tuple[int, int]:
    """How many of `count` go to test and to valid: 20 and 10 per cent, at least one each."""
    return max(1, round(0.2 * count)), max(1, round(0.1 * count))


def split(rows: list[Row], seed: int) -> Splits:
    """70/10/20 at random, by label where there is one; needs three groups of each label."""
    by_label: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_label.setdefault(label(row), {}).setdefault(_group(row), []).append(row)
    rng = random.Random(seed)
    new: Splits = {name: [] for name in SPLITS}
    for one in sorted(by_label):
        groups = list(by_label[one].values())
        rng.shuffle(groups)
        test, valid = shares(len(groups))
        for n, members in enumerate(groups):
            name = "test" if n < test else "valid" if n < test + valid else "train"
            new[name] += members
    for name in SPLITS:
        rng.shuffle(new[name])
    return new


def _group(row: Row) -> str:
    return _task(row).group(row)


def divide(table: Table, seed: int) -> Parts:
    """The table's own splits where it has them, else random ones; then the rows must suffice.

    UserError says what lacks.
    """
    has_splits = any("split" in row for _, row in table.rows)
    splits: Splits = {name: [] for name in SPLITS}
    for _, row in table.rows:
        if has_splits and "split" not in row:
            raise UserError(
                f"{table.file}: some rows have no 'split'; give one to each, or to none."
            )
        bare = {name: value for name, value in row.items() if name != "split"}
        splits[row.get("split", "train")].append(bare)
    parts = dedupe(splits)
    splits = parts.splits
    _suffice(table, [row for name in SPLITS for row in splits[name]])
    if not has_splits:
        _enough(table, splits["train"])
        return parts._replace(splits=split(splits["train"], seed))
    return parts._replace(splits=_own_splits(table, splits, seed))


def _own_splits(table: Table, splits: Splits, seed: int) -> Splits:
    """The file's own; valid, where it has none, is drawn from train."""
    for name in ("train", "test"):
        if not splits[name]:
            raise UserError(f"{table.file}: the 'split' column has no row for {name}; add some.")
    _seen(table, splits)
    if not splits["valid"]:
        _enough(table, splits["train"])
        random_splits = split(splits["train"], seed)
        train = random_splits["train"] + random_splits["test"]
        splits = splits | {"train": train, "valid": random_splits["valid"]}
    for name in SPLITS:
        random.Random(seed).shuffle(splits[name])
    return splits


def _suffice(table: Table, rows: list[Row]) -> None:
    for task in table.tasks:
        if reason := TASKS[task].suffice(rows):
            raise UserError(f"{table.file}, {reason}")


def _enough(table: Table, rows: list[Row]) -> None:
    """Three groups are needed for three splits, of each label."""
    pairs = {(label(row), _group(row)) for row in rows}
    for one, count in sorted(Counter(name for name, _ in pairs).items()):
        if count < 3:
            what = f"label '{one}' has {count}" if one else f"there is {count}"
            raise UserError(
                f"{table.file}: {what} different row{'s' * (count > 1)}; at least 3 are needed, "
                f"one each for train, valid and test. Add {3 - count}, or join or drop the label."
            )


def _seen(table: Table, splits: Splits) -> None:
    known = {c for row in splits["train"] for c in classes(row)}
    for name in ("test", "valid"):
        for strange in sorted({c for row in splits[name] for c in classes(row)} - known):
            where = next(w for w, r in table.rows if r["split"] == name and strange in classes(r))
            raise UserError(
                f"{table.file}, {where}: label '{strange}' is in {name} but never in train, so no "
                "model can learn it; move some of its rows to train or drop it."
            )


def card(
    source: str, kind: str, tasks: Iterable[str], parts: Parts, seed: int, **more: Any
) -> DataCard:
    """What is said about a source beside its rows; `more`: whatever else a DataCard has."""
    return DataCard(
        source=source,
        kind=kind,
        task=" ".join(tasks),
        seed=seed,
        duplicates_removed=parts.removed,
        duplicates_with_another_label=parts.conflicts,
        **counts(parts.splits),
        **more,
    )


def counts(splits: Splits) -> dict[str, Any]:
    """Rows of each split, and how many of train are of each kind: both in a DataCard."""
    kinds = Counter(c for row in splits["train"] for c in classes(row))
    return {
        "rows": {name: len(splits[name]) for name in SPLITS},
        "labels": dict(sorted(kinds.items())),
    }
