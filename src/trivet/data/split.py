"""Splits: which rows train, which choose the best epoch, which judge, and none of them twice.

A row that is in train and in test makes every figure after it a lie. So repeated rows are taken out
across splits, rows that ask the same thing stay together, and each label is in every split.

Not here: reading rows (`rows.py`), a source's own way to split (`sources/`).
"""

import json
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trivet import UserError
from trivet.data.cells import Row
from trivet.data.dataset import SPLITS, Draw, Splits, label
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


class Marks(NamedTuple):
    """What splitting asks of rows, 20 bytes a row, so that the rows themselves stay on disk.

    `keys`, `groups` uint64: hashes of what makes two rows the same, and of what stays together;
    `labels` int32: numbers of `names`, which are sorted. Of a million rows, two keys are equal by
    chance once in 10⁷ files.
    """

    keys: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    names: list[str]


def marks(rows: Iterable[Row]) -> Marks:
    keys, groups, labels, numbers = array("Q"), array("Q"), array("i"), dict[str, int]()
    for row in rows:
        keys.append(_hash(key(row)))
        groups.append(_hash(_group(row)))
        labels.append(numbers.setdefault(label(row), len(numbers)))
    names = sorted(numbers)
    rank = np.empty(len(names), np.int32)
    rank[[numbers[name] for name in names]] = np.arange(len(names))
    hashes = np.frombuffer(keys, np.uint64), np.frombuffer(groups, np.uint64)
    return Marks(*hashes, rank[np.frombuffer(labels, np.int32)], names)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def dedupe(splits: Splits) -> Parts:
    """Drop repeated rows: train loses to valid, valid to test."""
    rows = [(name, row) for name in reversed(SPLITS) for row in splits[name]]
    stay, conflicts = firsts(marks(row for _, row in rows))
    rest: Splits = {name: [] for name in SPLITS}
    for (name, row), stays in zip(rows, stay, strict=True):
        if stays:
            rest[name].append(row)
    return Parts(rest, int((~stay).sum()), conflicts)


def firsts(of: Marks) -> tuple[np.ndarray, int]:
    """Which rows come first with their key; how many of the others have another label than it."""
    order = np.argsort(of.keys, kind="stable")
    ranked = of.keys[order]
    begins = np.ones(len(order), bool)
    begins[1:] = ranked[1:] != ranked[:-1]
    stay = np.zeros(len(order), bool)
    stay[order[begins]] = True
    again = np.flatnonzero(~begins)
    starts = np.flatnonzero(begins)
    first = order[starts[np.searchsorted(starts, again) - 1]]  # of each repeated row's key
    return stay, int((of.labels[order[again]] != of.labels[first]).sum())


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
    order = assign(marks(rows), np.arange(len(rows)), seed)
    return {name: [rows[n] for n in order[name]] for name in SPLITS}


def assign(of: Marks, rows: np.ndarray, seed: int) -> "dict[str, array[int]]":
    """`split` of those `rows`, by their numbers."""
    rng = random.Random(seed)
    new = {name: array("q") for name in SPLITS}
    for own in _by_label(of, rows):
        _, first, inverse = np.unique(of.groups[own], return_index=True, return_inverse=True)
        as_they_come = np.argsort(np.argsort(first))[inverse]
        draw = array("q", range(len(first)))
        rng.shuffle(draw)
        place = np.argsort(np.array(draw))[as_they_come]  # of each row's group in the draw
        order = np.argsort(place, kind="stable")
        test, valid = shares(len(first))
        ends = np.searchsorted(place[order], [test, test + valid])
        for name, part in zip(("test", "valid", "train"), np.split(own[order], ends), strict=True):
            new[name].extend(part.tolist())
    for name in SPLITS:
        rng.shuffle(new[name])
    return new


def _group(row: Row) -> str:
    return _task(row).group(row)


def _by_label(of: Marks, rows: np.ndarray) -> list[np.ndarray]:
    """Those rows, by label in the order of `names`, each label's as they come."""
    order = rows[np.argsort(of.labels[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(of.labels[order])) + 1
    return np.split(order, bounds) if len(rows) else []


class Division(NamedTuple):
    """A file's rows in splits, still on disk; as `Parts`."""

    splits: Draw
    removed: int
    conflicts: int


def divide(table: Table, seed: int) -> Division:
    """The table's own splits where it has them, else random ones; then the rows must suffice.

    UserError says what lacks.
    """
    of, own = marks(table.rows), _own_splits(table)
    first = np.argsort(-own, kind="stable")  # test, valid, train: the earlier one keeps its row
    stay, conflicts = firsts(of._replace(keys=of.keys[first], labels=of.labels[first]))
    rest = first[stay]
    rows = table.rows.shaped(_bare)
    _suffice(table, rows.take(rest))
    order = {name: rest[own[rest] == n] for n, name in enumerate(SPLITS)}
    if (own < 0).all():
        rest = np.sort(rest)
        _enough(table, of, rest)
        order = assign(of, rest, seed)
    else:
        order = _completed(table, of, order, seed)
    splits = {name: rows.take(order[name]) for name in SPLITS}
    return Division(splits, len(stay) - len(rest), conflicts)


def _bare(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "split"}


def _own_splits(table: Table) -> np.ndarray:
    """Each row's split by its number in SPLITS; all -1 where the file has none."""
    own = array("b", (SPLITS.index(row["split"]) if "split" in row else -1 for row in table.rows))
    numbers = np.array(own, np.int8)
    if (numbers < 0).any() and (numbers >= 0).any():
        raise UserError(f"{table.file}: some rows have no 'split'; give one to each, or to none.")
    return numbers


def _completed(
    table: Table, of: Marks, order: dict[str, np.ndarray], seed: int
) -> "dict[str, array[int]]":
    """The file's own; valid, where it has none, is drawn from train."""
    for name in ("train", "test"):
        if not len(order[name]):
            raise UserError(f"{table.file}: the 'split' column has no row for {name}; add some.")
    _seen(table, order)
    new = {name: array("q", order[name].tolist()) for name in SPLITS}
    if not new["valid"]:
        _enough(table, of, order["train"])
        draw = assign(of, order["train"], seed)
        new |= {"train": draw["train"] + draw["test"], "valid": draw["valid"]}
    for name in SPLITS:
        random.Random(seed).shuffle(new[name])
    return new


def _suffice(table: Table, rows: Sequence[Row]) -> None:
    for task in table.tasks:
        if reason := TASKS[task].suffice(rows):
            raise UserError(f"{table.file}, {reason}")


def _enough(table: Table, of: Marks, rows: np.ndarray) -> None:
    """Three groups are needed for three splits, of each label."""
    for own in _by_label(of, rows):
        if (count := len(np.unique(of.groups[own]))) < 3:
            one = of.names[of.labels[own[0]]]
            what = f"label '{one}' has {count}" if one else f"there is {count}"
            raise UserError(
                f"{table.file}: {what} different row{'s' * (count > 1)}; at least 3 are "
                "needed, one each for train, valid and test. "
                f"Add {3 - count}, or join or drop the label."
            )


def _seen(table: Table, order: dict[str, np.ndarray]) -> None:
    known = {c for row in table.rows.take(order["train"]) for c in classes(row)}
    for name in ("test", "valid"):
        for n in np.sort(order[name]):
            if strange := sorted(set(classes(table.rows[int(n)])) - known):
                raise UserError(
                    f"{table.file}, {table.where(int(n))}: label '{strange[0]}' is in {name} but "
                    "never in train, so no model can learn it; move some of its rows to train or "
                    "drop it."
                )


def card(
    source: str, kind: str, tasks: Iterable[str], parts: Parts | Division, seed: int, **more: Any
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


def counts(splits: Draw) -> dict[str, Any]:
    """Rows of each split, and how many of train are of each kind: both in a DataCard."""
    kinds = Counter(c for row in splits["train"] for c in classes(row))
    return {
        "rows": {name: len(splits[name]) for name in SPLITS},
        "labels": dict(sorted(kinds.items())),
    }
