"""One JSON object a line: the form in which rows lie in data/.

Rows stay on disk until somebody asks for them, so that a file may be larger than memory: eight
bytes a row say where each begins. What tunes a model reads rows here and nowhere else, so that no
other format can change its key. Not here: the files that users bring (`files.py`).
"""

import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

from trivet import UserError
from trivet.data.cells import Row


class Lines(Sequence[Row]):
    """Rows of a file on disk, each read when it is asked for.

    `offsets`: where each line begins, and where the last one ends; `order`: which of them, in which
    order, all if None; `form`: what becomes of a row as it is read.
    """

    def __init__(
        self,
        file: IO[bytes],
        name: object,
        offsets: "array[int]",
        order: "Sequence[int] | None" = None,
        form: Callable[[Row], Row] | None = None,
    ) -> None:
        self._file, self._name, self._offsets = file, name, offsets
        self._order: Sequence[int] = range(len(offsets) - 1) if order is None else order
        self._form = form

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> "Lines": ...
    def __getitem__(self, at: int | slice) -> "Row | Lines":
        if isinstance(at, slice):
            return self._like(self._order[at], self._form)
        n = self._order[at]
        begin, end = self._offsets[n], self._offsets[n + 1]
        row = self._parse(os.pread(self._file.fileno(), end - begin, begin), begin)
        return self._form(row) if self._form else row

    def __iter__(self) -> Iterator[Row]:
        return (self[n] for n in range(len(self)))

    def take(self, order: Iterable[int]) -> "Lines":
        return self._like(array("q", (self._order[n] for n in order)), self._form)

    def shaped(self, form: Callable[[Row], Row]) -> "Lines":
        return self._like(self._order, form)

    def _like(self, order: "Sequence[int]", form: Callable[[Row], Row] | None) -> "Lines":
        return Lines(self._file, self._name, self._offsets, order, form)

    def _parse(self, line: bytes, offset: int) -> Row:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            n = os.pread(self._file.fileno(), offset, 0).count(b"\n") + 1
            raise UserError(
                f"{self._name}, line {n}: not JSON ({e}); each line must hold one whole object."
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{self._name}: {row!r:.40} is not an object such as {{'text': …}}.")
        return row


class Spool:
    """Rows that come one by one, kept in a file without a name in the folder for temporary files
    (TMPDIR); it is gone with the last who reads it.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, line: str) -> None:
        self._offsets.append(self._offsets[-1] + self._file.write(line.encode("utf-8") + b"\n"))

    def lines(self) -> Lines:
        self._file.flush()
        return Lines(self._file, "spool", self._offsets)


def lines(file: Path) -> Lines:
    """Rows of a file that Trivet wrote, or somebody has edited since; empty lines are no rows."""
    source, offsets, at = file.open("rb"), array("q"), 0
    for line in source:
        if line.strip():
            offsets.append(at)
        at += len(line)
    offsets.append(at)
    return Lines(source, file, offsets)


def read(file: Path) -> list[Row]:
    """All of them at once. UserError names the line."""
    return list(lines(file))


def write(file: Path, rows: Iterable[Row]) -> None:
    """Keys sorted, UTF-8, \\n on every machine: equal rows are equal bytes."""
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(dump(row) + "\n" for row in rows)


def dump(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True)
