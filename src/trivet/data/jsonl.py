"""One JSON object a line: the form in which rows lie in data/, and one of those that users bring.

What tunes a model reads rows here and nowhere else, so that no other format can change its key.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trivet import UserError
from trivet.data.cells import Row


def read(file: Path) -> list[Row]:
    """Rows of a file that Trivet wrote, or somebody has edited since; UserError names the line."""
    return [row for _, row in lines(file)]


def write(file: Path, rows: Iterable[Row]) -> None:
    """Keys sorted, UTF-8, \\n on every machine: equal rows are equal bytes."""
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in rows)


def lines(file: Path) -> Iterator[tuple[str, Row]]:
    """Each row beside the words for where it stands. Empty lines count but are no rows."""
    for n, line in enumerate(utf8(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as e:
            raise UserError(
                f"{file}, line {n}: not JSON ({e}); each line must hold one whole object."
            ) from None
        yield f"line {n}", whole(file, f"line {n}", row)


def whole(file: Path, where: str, row: Any) -> Row:
    """A row that is an object. UserError."""
    if not isinstance(row, dict):
        raise UserError(f"{file}, {where}: {row!r:.40} is not an object such as {{'text': …}}.")
    return row


def utf8(file: Path) -> str:
    """A file's text, with or without a byte order mark. UserError names line and offset."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise UserError(
            f"{file}, line {line}: byte 0x{data[e.start]:02x} at offset {e.start} is not UTF-8; "
            "save the file as UTF-8 (a spreadsheet calls it 'CSV UTF-8')."
        ) from None
