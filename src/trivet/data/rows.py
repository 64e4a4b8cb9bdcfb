"""Rows: what a user's file says, brought into one shape, or the reason why it cannot be.

A bad row costs a second here; in a trainer it costs a night, or, worse, nothing is said and the
model is bad. So each row is looked at, and an error names file, line and column. Which columns make
rows is the registered tasks' to say.

Not here: splits and duplicates (`split.py`), versions (`versions.py`), how rows become tokens.
"""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trivet import UserError
from trivet.data import jsonl, numbers
from trivet.data.cells import Cells, Row
from trivet.plugins import TASKS

if TYPE_CHECKING:
    from trivet.tasks.task import Shape

MAX_BYTES = 1_000_000  # of one row as JSON
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


class Table(NamedTuple):
    """A file's rows in the contract's shape, each beside the words for where it stands.

    `kind`: the shape in words; `tasks`: names of those that the rows serve, in registry order.
    """

    file: Path
    kind: str
    tasks: tuple[str, ...]
    rows: list[tuple[str, Row]]
    ignored: list[str]


def parse(file: Path) -> Table:
    """Read .csv, .jsonl, .json, .parquet or .npz. UserError names file, line, column and fix.

    The first row's columns decide which tasks the rows serve; then every row must serve them all.
    """
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
        ".csv": _csv,
        ".jsonl": jsonl.lines,
        ".json": _json,
        ".parquet": _parquet,
        ".npz": numbers.read,
    }
    if file.suffix.lower() not in readers:
        raise UserError(f"{file}: '{file.suffix}' files are not read; use {', '.join(readers)}.")
    if file.is_dir() or file.stat().st_size == 0:
        raise UserError(
            f"{file} is {'a folder' if file.is_dir() else 'empty'}: name a file of rows."
        )
    raw = list(readers[file.suffix.lower()](file))
    if not raw:
        raise UserError(f"{file} has no rows: it needs a heading and some rows under it.")
    columns = list(raw[0][1])
    tasks = fitting(columns)
    if not tasks:
        known = "; ".join(", ".join(s.columns) for task in TASKS.values() for s in task.shapes)
        raise UserError(
            f"{file}: its columns are {', '.join(map(repr, columns)) or 'none'}, which is no shape "
            f"that Trivet knows. Rename them to one of: {known}; a 'split' column may be added."
        )
    shapes = list(tasks.values())
    used = {"split"}.union(*(shape.columns + shape.optional for shape in shapes))
    rows = [(where, _row(Cells(file, where, row), shapes)) for where, row in raw]
    for shape in shapes:
        if shape.whole:
            shape.whole(file, rows)
    return Table(file, words(shapes), tuple(tasks), rows, [c for c in columns if c not in used])


def fitting(columns: Iterable[str]) -> "dict[str, Shape]":
    """Each task that rows of these columns serve, with the first of its shapes that fits."""
    names = set(columns)
    first = {
        task.name: next((s for s in task.shapes if names.issuperset(s.columns)), None)
        for task in TASKS.values()
    }
    return {name: shape for name, shape in first.items() if shape}


def words(shapes: "Collection[Shape]") -> str:
    """The kind of rows in words; of several shapes, `text, label, tokens and tags`."""
    kinds = {shape.kind for shape in shapes}
    if len(kinds) == 1:
        return kinds.pop()
    *most, last = dict.fromkeys(column for shape in shapes for column in shape.columns)
    return " and ".join([*([", ".join(most)] if most else []), last])


def _row(cells: Cells, shapes: "list[Shape]") -> Row:
    """One row in the contract's shape; the file's own split, if any, is kept under `split`.

    Where two tasks write the same key, the earlier one's value stays.
    """
    new: Row = {}
    for shape in shapes:
        new = shape.row(cells) | new
    try:
        size = len(json.dumps(new, ensure_ascii=False).encode("utf-8"))
    except UnicodeEncodeError as e:
        raise cells.bad(
            shapes[0].columns[0], f"half a character ({e.object[e.start]!r}) stands alone"
        ) from None
    if size > MAX_BYTES:
        raise UserError(
            f"{cells.file}, {cells.where}: the row has {size / 1e6:.1f} MB; a row may have 1 MB. "
            "Split it into several rows (or close a double quote that is left open)."
        )
    if "split" in cells.row:
        name = str(cells.value("split")).strip().lower()
        if name not in SPLIT_NAMES:
            raise cells.bad("split", f"'{name}' is none of train, valid, test")
        new["split"] = SPLIT_NAMES[name]
    return new


# Formats beside JSONL and .npz.


def _csv(file: Path) -> Iterator[tuple[str, Row]]:
    text = jsonl.utf8(file)
    heading = text.split("\n", 1)[0]
    sign = max(",;\t", key=heading.count)
    csv.field_size_limit(max(csv.field_size_limit(), 2**30))  # our own limit is said in words
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
    line = 1
    try:
        columns = [c.strip() for c in next(reader, [])]
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(columns):
                raise UserError(
                    f"{file}, line {line}: {len(cells)} cells under {len(columns)} columns; put "
                    f'text that holds "{sign}" or a line break in double quotes.'
                )
            if cells:
                yield f"line {line}", dict(zip(columns, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as e:
        raise UserError(f"{file}, line {line}: {e}; is a double quote left open there?") from None


def _json(file: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(jsonl.utf8(file))
    except (json.JSONDecodeError, RecursionError) as e:
        raise UserError(f"{file}: not JSON ({e}); one object a line is called .jsonl.") from None
    if not isinstance(rows, list):
        raise UserError(
            f"{file}: holds a {type(rows).__name__}, not a list of rows: wrap it in [ ]."
        )
    for n, row in enumerate(rows, 1):
        yield f"row {n}", jsonl.whole(file, f"row {n}", row)


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{file}: not Parquet ({e}); write it anew.") from None
    for n, row in enumerate(table.to_pylist(), 1):
        yield f"row {n}", row
