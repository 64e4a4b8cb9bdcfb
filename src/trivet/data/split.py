"""Splits: which rows train, which choose the best epoch, which judge, and none of them twice.

A row that is in train and in test makes every figure after it a lie. So repeated rows are taken out
across splits, rows that ask the same thing stay together, and each label is in every split.

Not here: reading rows (`rows.py`), the split by template of the voice commands (`data.py`).
"""

import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ... import UserError
from .. import recipe
from .rows import Row, Table

Splits = dict[str, list[Row]]

SPLITS = ("train", "valid", "test")


def key(row: Row) -> str:
    """What makes two rows the same row: the text or words, the numbers, the whole conversation."""
    return row["text"] if "text" in row else json.dumps(row.get("messages") or row["x"])


def dedupe(splits: Splits) -> tuple[Splits, int, int]:
    """Drop repeated rows: train loses to valid, valid to test. Also: how many, how many at odds.

    At odds are repeated texts with another label than the one that was kept.
    """
    seen: dict[str, str | None] = {}
    kept: Splits = {}
    removed = conflicts = 0
    for name in reversed(SPLITS):
        kept[name] = []
        for row in splits[name]:
            label = row.get("label")
            if key(row) in seen:
                removed += 1
                conflicts += seen[key(row)] != label
            else:
                seen[key(row)] = label
                kept[name].append(row)
    return {name: kept[name] for name in SPLITS}, removed, conflicts


def group(row: Row) -> str:
    """Rows of a group stay in one split: those that ask the same thing first."""
    if "messages" not in row:
        return key(row)
    return next((m["content"] for m in row["messages"] if m["role"] == "user"), "").casefold()


def shares(count: int) -> tuple[int, int]:
    """How many of `count` go to test and to valid: 20 and 10 per cent, at least one each."""
    return max(1, round(0.2 * count)), max(1, round(0.1 * count))


def split(rows: list[Row], seed: int) -> Splits:
    """70/10/20 at random, by label where there is one; needs three groups of each label."""
    by_label: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_label.setdefault(row.get("label", ""), {}).setdefault(group(row), []).append(row)
    rng = random.Random(seed)
    new: Splits = {name: [] for name in SPLITS}
    for label in sorted(by_label):
        groups = list(by_label[label].values())
        rng.shuffle(groups)
        test, valid = shares(len(groups))
        for n, members in enumerate(groups):
            name = "test" if n < test else "valid" if n < test + valid else "train"
            new[name] += members
    for name in SPLITS:
        rng.shuffle(new[name])
    return new


def labels(rows: Iterable[Row], task: str = "classify") -> list[str]:
    """What a model of the task must tell apart, sorted: labels, or BIO tags; none to generate."""
    if task == "tag":
        return sorted({tag for row in rows for tag in row["tags"]})
    return sorted({row["label"] for row in rows if "label" in row})


def classes(row: Row) -> list[str]:
    """A row's label, or for rows without one the kinds of span in it, or nothing."""
    if "label" in row:
        return [row["label"]]
    return sorted({tag[2:] for tag in row.get("tags", ()) if tag != "O"})


def divide(table: Table, seed: int) -> tuple[Splits, int, int]:
    """The table's own splits where it has them, else random ones; then the rows must suffice.

    Returns splits, duplicates removed, duplicates with another label. UserError says what lacks.
    """
    own = [(where, row) for where, row in table.rows if "split" in row]
    if own and len(own) != len(table.rows):
        raise UserError(f"{table.file}: some rows have no 'split'; give one to each, or to none.")
    plain = [{k: v for k, v in row.items() if k != "split"} for _, row in table.rows]
    given: Splits = {name: [] for name in SPLITS}
    for (_, row), bare in zip(table.rows, plain, strict=True):
        given[row.get("split", "train")].append(bare)
    given, removed, conflicts = dedupe(given)
    _suffice(table, [row for name in SPLITS for row in given[name]])
    if not own:
        _enough(table, given["train"])
        return split(given["train"], seed), removed, conflicts
    for name in ("train", "test"):
        if not given[name]:
            raise UserError(f"{table.file}: the 'split' column has no row for {name}; add some.")
    _seen(table, given)
    if not given["valid"]:
        _enough(table, given["train"])
        parts = split(given["train"], seed)
        given |= {"train": parts["train"] + parts["test"], "valid": parts["valid"]}
    for name in SPLITS:
        random.Random(seed).shuffle(given[name])
    return given, removed, conflicts


def _suffice(table: Table, rows: list[Row]) -> None:
    if "classify" in table.task and len(labels(rows)) < 2:
        one = labels(rows)[0]
        raise UserError(
            f"{table.file}, column 'label': each row has the label '{one}'; a classifier needs at "
            "least two. Is it the right column?"
        )
    if "tag" in table.task and all(t == "O" for row in rows for t in row["tags"]):
        raise UserError(
            f"{table.file}, column 'tags': each tag is O, so there is nothing to learn."
        )


def _enough(table: Table, rows: list[Row]) -> None:
    """Three groups are needed for three splits, of each label."""
    pairs = {(row.get("label", ""), group(row)) for row in rows}
    for label, count in sorted(Counter(label for label, _ in pairs).items()):
        if count < 3:
            what = f"label '{label}' has {count}" if label else f"there is {count}"
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


def pick(want: recipe.Data, splits: Splits) -> Splits:
    """The rows of a run, out of all rows; see `data.read`."""
    train = splits["train"]
    found = labels(train)
    if 0 < want.rows < len(found):
        raise UserError(
            f"data.rows = {want.rows}, but {want.source} has {len(found)} labels and each needs a "
            f"row to be learned: set data.rows to {len(found)} or more, or to 0 for all rows."
        )
    rng = random.Random(want.seed)
    order = _balanced(train, rng)
    picked, others = (order[: want.rows], order[want.rows :]) if want.rows else (order, [])
    result = {
        "train": rng.sample(picked, len(picked)),
        "valid": splits["valid"][: max(100, len(picked) // 5)],
        "test": splits["test"][: want.test],
    }
    if want.task == "classify":
        pool = rng.sample(others, min(want.pool, len(others)))
        result["pool"] = [{k: row[k] for k in ("text", "x") if k in row} for row in pool]
    return result


def _balanced(train: list[Row], rng: random.Random) -> list[Row]:
    """All rows in an order whose every beginning holds the labels as evenly as they last."""
    by_label: dict[str, list[Row]] = {}
    for row in train:
        by_label.setdefault(row.get("label", ""), []).append(row)
    names = sorted(by_label)
    rng.shuffle(names)
    for name in names:
        rng.shuffle(by_label[name])
    longest = max(map(len, by_label.values()), default=0)
    return [by_label[n][i] for i in range(longest) for n in names if i < len(by_label[n])]


def card(
    source: str, kind: str, task: str, splits: Splits, removed: int, conflicts: int, seed: int
) -> dict[str, Any]:
    """What is said about a source beside its rows (data/<source>/card.json)."""
    return {
        "source": source,
        "kind": kind,
        "task": task,
        "seed": seed,
        "duplicates_removed": removed,
        "duplicates_with_another_label": conflicts,
        **counts(splits),
    }


def counts(splits: Splits) -> dict[str, Any]:
    found = Counter(c for row in splits["train"] for c in classes(row))
    return {
        "rows": {name: len(splits[name]) for name in SPLITS},
        "labels": dict(sorted(found.items())),
    }
