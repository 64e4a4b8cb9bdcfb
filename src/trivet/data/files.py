"""Files that users bring, row by row: text and Parquet, packed or not, never whole in memory.

Each row comes beside its number; one that cannot be read comes as the reason, because a bad row of
a million is the recipe's to judge. What makes every row doubtful (not UTF-8, an open quote) ends
the file. Held whole, because their form leaves no choice: .json, .npz.

Not here: what a row's columns mean (`rows.py`), tables of numbers (`numbers.py`).
"""

import csv
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from trivet import UserError
from trivet.data import numbers, parquet
from trivet.data.cells import BadRow, Row

Numbered = Iterator[tuple[int, Row | BadRow]]


class File(NamedTuple):
    """A file of rows, or a member of a .zip."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}::{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """Without the folder and without .gz: what it is called and what it holds."""
        name = Path(self.member or self.path).name
        return name[:-3] if _is_gz(name) else name

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    def open(self) -> IO[bytes]:
        """Its bytes, unpacked as they are read. UserError."""
        name, file = self.member or str(self.path), self.path.open("rb")
        try:
            unpacked: IO[bytes] = file
            if self.member:
                unpacked = zipfile.ZipFile(file).open(self.member)  # noqa: SIM115
            return cast(IO[bytes], gzip.open(unpacked)) if _is_gz(name) else unpacked
        except (zipfile.BadZipFile, KeyError, RuntimeError) as e:
            raise UserError(f"{self}: cannot be unpacked ({e}).") from None


def _is_gz(name: str) -> bool:
    return name.lower().endswith(".gz")


def find(source: str, folders: Iterable[Path]) -> File | None:
    """What `data.source` names: a file, `a.zip::member`, `a.zip/member`, or a .zip of one file."""
    text, _, member = source.partition("::")
    for folder in folders:
        path = folder / Path(text).expanduser()
        for file in (path, *path.parents):
            if file.is_file() and (file == path or zipfile.is_zipfile(file)):
                inside = member or path.relative_to(file).as_posix().lstrip(".")
                return _member(file, inside) if file.suffix.lower() == ".zip" else File(file)
        if path.exists():
            return File(path)
    return None


def _member(file: Path, member: str) -> File:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    able = [name for name in names if File(file, name).suffix in READERS]
    if not member and len(able) == 1:
        return File(file, able[0])
    if member not in names:
        raise UserError(
            f"data.source = '{file}{'::' if member else ''}{member}': name one of the archive's "
            f"files behind '::'; it holds {', '.join(able[:8]) or 'none that is read'}."
        )
    return File(file, member)


def rows(file: File) -> Numbered:
    """UserError where the file cannot be read, and from then on wherever it ends."""
    if file.path.is_dir():
        raise UserError(f"{file} is a folder: name a file of rows.")
    if file.suffix not in READERS:
        raise UserError(
            f"{file}: '{file.suffix}' files are not read; use {', '.join(READERS)}, each also as "
            ".gz or in a .zip."
        )
    with file.open() as source:
        try:
            yield from READERS[file.suffix](file, source)
        except (gzip.BadGzipFile, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise UserError(f"{file}: cannot be unpacked to its end ({e}).") from None


def unit(file: File) -> str:
    return "row" if file.suffix in (".json", ".parquet", ".npz") else "line"


def _jsonl(file: File, source: IO[bytes]) -> Numbered:
    """Empty lines count but are no rows."""
    at = 0
    for n, line in enumerate(source, 1):
        if n == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield n, _object(file, f"line {n}", line, at)
        at += len(line)


def _object(file: File, where: str, line: bytes, at: int) -> Row | BadRow:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as e:
        return BadRow(file, where, _not_utf8(e, line, at))
    except DuplicateKey as e:
        return BadRow(file, where, f"the key '{e}' stands twice in one object; keep one.")
    except (ValueError, RecursionError) as e:
        return BadRow(file, where, f"not JSON ({e}); each line must hold one whole object.")
    return _whole(file, where, row)


class DuplicateKey(ValueError):
    """Of two values for one key a reader keeps the last, and nobody learns of the first."""


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(next(name for name in names if names.count(name) > 1))
    return row


def _whole(file: File, where: str, row: Any) -> Row | BadRow:
    if not isinstance(row, dict):
        return BadRow(file, where, f"{row!r:.40} is not an object such as {{'text': …}}.")
    return row


def _not_utf8(error: UnicodeDecodeError, data: bytes, at: int = 0) -> str:
    return (
        f"byte 0x{data[error.start]:02x} at offset {at + error.start} is not UTF-8; save the file "
        "as UTF-8 (a spreadsheet calls it 'CSV UTF-8')."
    )


def _undecodable(file: File) -> UserError:
    """The first line that is not UTF-8: a text reader that decodes by the block does not say."""
    at = 0
    with file.open() as source:
        for n, line in enumerate(source, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as e:
                return BadRow(file, f"line {n}", _not_utf8(e, line, at))
            at += len(line)
    return UserError(f"{file}: not UTF-8.")


def _csv(file: File, source: IO[bytes]) -> Numbered:
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    csv.field_size_limit(max(csv.field_size_limit(), 2**30))  # our own limit is said in words
    line = 1
    try:
        heading = text.readline()
        sign = "\t" if file.suffix == ".tsv" else max(",;\t|", key=heading.count)
        reader = csv.reader(_again(heading, text), delimiter=sign, strict=True)
        columns = [c.strip() for c in next(reader, [])]
        _unlike(file, columns)
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(columns):
                quoted = "tab" if sign == "\t" else f'"{sign}"'
                yield (
                    line,
                    BadRow(
                        file,
                        f"line {line}",
                        f"{len(cells)} cells under {len(columns)} columns; put text that holds "
                        f"{quoted} or a line break in double quotes.",
                    ),
                )
            elif cells:
                yield line, dict(zip(columns, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as e:
        raise UserError(f"{file}, line {line}: {e}; is a double quote left open there?") from None
    except UnicodeDecodeError:
        raise _undecodable(file) from None


def _again(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _unlike(file: File, columns: list[str]) -> None:
    for name in columns:
        if columns.count(name) > 1:
            raise UserError(
                f"{file} has {columns.count(name)} columns called '{name}', and a row can have "
                "only one: rename or drop the others."
            )


def _json(file: File, source: IO[bytes]) -> Numbered:
    data = source.read()
    try:
        table = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise _undecodable(file) from None
    except DuplicateKey as e:
        raise UserError(f"{file}: the key '{e}' stands twice in one object; keep one.") from None
    except (json.JSONDecodeError, RecursionError) as e:
        raise UserError(f"{file}: not JSON ({e}); one object a line is called .jsonl.") from None
    if not isinstance(table, list):
        raise UserError(
            f"{file}: holds a {type(table).__name__}, not a list of rows: wrap it in [ ]."
        )
    for n, row in enumerate(table, 1):
        yield n, _whole(file, f"row {n}", row)


def _parquet(file: File, source: IO[bytes]) -> Numbered:
    columns = parquet.columns(file, source)
    _unlike(file, columns)
    yield from parquet.read(file, source)


READERS: dict[str, Callable[[File, IO[bytes]], Numbered]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".tsv": _csv,
    ".npz": numbers.read,
}
