"""Rows: what a user's file says, brought into one shape, or the reason why it cannot be.

A bad row costs a second here; in a trainer it costs a night, or, worse, nothing is said and the
model is bad. So each row is looked at, and an error names file, line and column. Which columns make
rows is the registered tasks' to say; a column that one of them knows is never dropped in silence.

Not here: the files themselves (`files.py`), splits and duplicates (`split.py`), versions
(`versions.py`), how rows become tokens.
"""

from array import array
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trivet import UserError
from trivet.config.data import Reading
from trivet.data import files, jsonl
from trivet.data.cells import BadRow, Cells, Journal, Row, empty
from trivet.data.files import File
from trivet.data.survey import Survey
from trivet.plugins import TASKS

if TYPE_CHECKING:
    from trivet.tasks.task import Shape

MAX_BYTES = 1_000_000  # of one row as JSON
LISTED = 10  # bad rows that an error shows
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


class Table(NamedTuple):
    """A file's rows in the contract's shape, and what is said of them.

    `kind`: the shape in words; `format`: its name, or names; `tasks`: names of those that the rows
    serve, in registry order; `places`: for each row its number in the file, in units of `unit`;
    `used`, `ignored`: the file's columns; `bad`: rows that were put aside.
    """

    file: File
    kind: str
    format: str
    tasks: tuple[str, ...]
    rows: jsonl.Lines
    places: "array[int]"
    unit: str
    used: list[str]
    ignored: list[str]
    bad: list[tuple[BadRow, Any]]
    survey: Survey

    def where(self, n: int) -> str:
        return f"{self.unit} {self.places[n]}"


def parse(file: File | Path, reading: Reading | None = None) -> Table:
    """Read a file of any known kind. UserError names file, line, column and fix.

    The first good row's columns decide which tasks the rows serve; then every row must serve them
    all. Rows that cannot be used, up to `data.bad_rows`, are put aside.
    """
    file = file if isinstance(file, File) else File(file)
    reading = reading or Reading()
    if file.path.is_file() and not file.path.stat().st_size:
        raise UserError(f"{file} is empty: name a file of rows.")
    reader, bad = _Reader(file, reading), list[tuple[BadRow, Any]]()
    spool, places, unit = jsonl.Spool(), array("q"), files.unit(file)
    for n, row in files.rows(file):
        try:
            if isinstance(row, BadRow):
                raise row
            line = reader.line(f"{unit} {n}", row)
        except BadRow as e:
            bad.append((e, row if isinstance(row, dict) else None))
            if len(bad) > max(reading.bad_rows, LISTED - 1):
                break
        else:
            spool.add(line)
            places.append(n)
    if len(bad) > reading.bad_rows:
        raise _too_many(file, bad, reading)
    if not spool:
        raise UserError(f"{file} has no rows: it needs a heading and some rows under it.")
    return reader.table(spool, places, bad)


def _too_many(file: File, bad: list[tuple[BadRow, Any]], reading: Reading) -> UserError:
    """One bad row's own error; of several, the first ten."""
    if len(bad) == 1:
        return bad[0][0]
    many = "or more " if len(bad) >= LISTED else ""
    listed = "\n".join(f"  {e.where}, {e.reason:.150}" for e, _ in bad[:LISTED])
    return UserError(
        f"{file}: {len(bad)} {many}rows cannot be used, and data.bad_rows allows "
        f"{reading.bad_rows}:\n{listed}\nMend them, or raise data.bad_rows to have them put aside."
    )


class _Reader:
    """The rows of one file, one after the other, by the shapes that the first of them fits."""

    def __init__(self, file: File, reading: Reading) -> None:
        self.file, self.reading = file, reading
        self.journal = Journal(reading.ignore, reading.columns)
        self.survey = Survey()
        self.shapes: dict[str, Shape] = {}
        self.first: Row = {}
        self.used: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.columns = frozenset[str]()

    def line(self, where: str, raw: Row) -> str:
        """The row as it is kept. BadRow, or UserError where the whole file is unfit."""
        row = self._mapped(where, raw)
        if not self.shapes:
            self._recognise(row)
        cells = Cells(self.file, where, row, self.journal)
        self._none_is_dropped(cells)
        new = _row(cells, list(self.shapes.values()))
        self.first = self.first or new
        for shape in self.shapes.values():
            if shape.beside:
                shape.beside(cells, new, self.first)
        line = _line(cells, new, next(iter(self.shapes.values())).columns[0])
        self.survey.add(new, self.shapes)
        return line

    def table(
        self, spool: jsonl.Spool, places: "array[int]", bad: list[tuple[BadRow, Any]]
    ) -> Table:
        strange = [n for n in self.reading.ignore if n not in self.ignored]
        turns = {name.rpartition("[].")[2] for name in self.journal.ignored}
        if lost := [name for name in strange if name not in turns]:
            raise UserError(
                f"data.ignore names '{lost[0]}', and {self.file} has no such column, nor its turns "
                "such a key: take it out, or mend its spelling."
            )
        self.survey.changes.update(self.journal.changes)
        return Table(
            self.file,
            words(self.shapes.values()),
            " ".join(dict.fromkeys(shape.format for shape in self.shapes.values())),
            tuple(self.shapes),
            spool.lines(),
            places,
            files.unit(self.file),
            list(self.used),
            [*self.ignored, *self.journal.ignored],
            bad,
            self.survey,
        )

    def _mapped(self, where: str, raw: Row) -> Row:
        """The row under the formats' names, without what the recipe ignores."""
        row = {}
        for name, value in raw.items():
            if name in self.reading.ignore:
                self.ignored[name] = None
            else:
                row[name] = value
        for name, own in self.reading.columns.items():
            if own not in raw and not self.shapes:
                raise UserError(
                    f"data.columns.{name} = '{own}': {self.file}, {where}, has no such column, "
                    f"but {_quoted(raw)}."
                )
            if name != own and name in row and own in row:
                raise UserError(
                    f"data.columns.{name} = '{own}', but {self.file}, {where}, has a column "
                    f"'{name}' of its own: name that in data.ignore."
                )
        moved = {own: name for name, own in self.reading.columns.items()}
        return {moved.get(name, name): value for name, value in row.items()} if moved else row

    def _recognise(self, row: Row) -> None:
        self.shapes = recognise(self.file, row, self.reading)
        shapes = self.shapes.values()
        self.columns = frozenset({"split"}.union(*(s.columns + s.optional for s in shapes)))
        for name in row:
            if name not in self.columns and not empty(row[name]) and (why := self._known(name)):
                raise UserError(
                    f"{self.file} has {words(shapes)}, and a column '{self._own(name)}' beside "
                    f"them: {why}. Name it in data.ignore to leave it out."
                )

    def _none_is_dropped(self, cells: Cells) -> None:
        for name in cells.row:
            own = self._own(name)
            if name in self.columns:
                self.used[own] = None
            elif own in self.ignored:
                continue
            elif not (why := self._known(name)):
                self.ignored[own] = None
            elif not empty(cells.row[name]):
                raise cells.bad(name, f"{why}; name it in data.ignore to leave it out")

    def _known(self, name: str) -> str:
        """Why a column that the rows' format does not read must not be dropped; "" if it may."""
        for shape in self.shapes.values():
            if name in shape.unread:
                return shape.unread[name]
        for task in TASKS.values():
            for shape in task.shapes:
                if name in shape.columns + shape.optional or name in shape.unread:
                    return f"{shape.kind} have such a column, and these rows' format does not"
        return ""

    def _own(self, name: str) -> str:
        return self.reading.columns.get(name, name)


def recognise(file: File, columns: Iterable[str], reading: Reading) -> "dict[str, Shape]":
    """Each task that the rows serve, with its shape. UserError where there is none, or where the
    shape is one that cannot be trained.
    """
    names = list(columns)
    if reading.format:
        return _of_format(file, names, reading.format)
    shapes = fitting(names)
    for shape in (s for task in TASKS.values() for s in task.shapes if s.refused):
        able = any(set(shape.columns) <= {*s.columns, *s.optional} for s in shapes.values())
        if set(names).issuperset(shape.columns) and not able:
            raise UserError(f"{file} has {shape.kind} ({', '.join(names)}): {shape.refused}.")
    if not shapes:
        known = "; ".join(
            ", ".join(s.columns) for task in TASKS.values() for s in task.shapes if not s.refused
        )
        raise UserError(
            f"{file}: its columns are {_quoted(names)}, which is no shape that Trivet knows. Name "
            f"them in [data.columns] as one of: {known}; a 'split' column may be added."
        )
    return shapes


def _of_format(file: File, names: list[str], format: str) -> "dict[str, Shape]":
    shapes = {t.name: s for t in TASKS.values() for s in t.shapes if s.format == format}
    for shape in shapes.values():
        if shape.refused:
            raise UserError(f"data.format = '{format}': {shape.refused}.")
        if lost := [name for name in shape.columns if name not in names]:
            raise UserError(
                f"data.format = '{format}', but {file} has no column {_quoted(lost)}; it has "
                f"{_quoted(names)}: name the right ones in [data.columns]."
            )
    return shapes


def fitting(columns: Iterable[str]) -> "dict[str, Shape]":
    """Each task that rows of these columns serve, with the first of its shapes that fits."""
    names = set(columns)
    first = {
        task.name: next(
            (s for s in task.shapes if not s.refused and names.issuperset(s.columns)), None
        )
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


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _row(cells: Cells, shapes: "list[Shape]") -> Row:
    """One row in the contract's shape; the file's own split, if any, is kept under `split`.

    Where two tasks write the same key, the earlier one's value stays.
    """
    new: Row = {}
    for shape in shapes:
        new = shape.row(cells) | new
    if "split" in cells.row:
        name = str(cells.value("split")).strip().lower()
        if name not in SPLIT_NAMES:
            raise cells.bad("split", f"'{name}' is none of train, valid, test")
        new["split"] = SPLIT_NAMES[name]
    return new


def _line(cells: Cells, new: Row, column: str) -> str:
    """The row as JSON, if that is not too long and can be written."""
    line = jsonl.dump(new)
    try:
        size = len(line.encode("utf-8"))
    except UnicodeEncodeError as e:
        raise cells.bad(column, f"half a character ({e.object[e.start]!r}) stands alone") from None
    if size > MAX_BYTES:
        raise BadRow(
            cells.file,
            cells.where,
            f"the row has {size / 1e6:.1f} MB; a row may have 1 MB. Split it into several rows "
            "(or close a double quote that is left open).",
        )
    return line
