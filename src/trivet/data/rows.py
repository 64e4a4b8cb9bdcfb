"""Rows: what a user's file says, brought into one shape, or the reason why it cannot be.

A bad row found here costs a second; found by a trainer it costs a night, or, worse, nothing is
said and the model is bad. So each row is looked at, and an error names file, line and column.

Not here: splits and duplicates (`split.py`), versions (`data.py`), how rows become tokens.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ... import UserError
from . import numbers

Row = dict[str, Any]

MAX_BYTES = 1_000_000  # of one row as JSON
SHAPES = {  # columns -> the name of the shape and the task it serves; the first that fits is taken
    ("tokens", "tags"): ("tokens and tags", "tag"),
    ("text", "label"): ("text and label", "classify"),
    ("x", "label"): ("numbers and label", "classify"),
    ("messages",): ("chat messages", "generate"),
    ("conversations",): ("sharegpt conversations", "generate"),
    ("instruction", "output"): ("alpaca instructions", "generate"),
    ("prompt", "completion"): ("prompt and completion", "generate"),
}
NAMES = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant"}
ROLES["gpt"] = "assistant"


class Table(NamedTuple):
    """A file's rows in the contract's shape, each beside the words for where it stands."""

    file: Path
    kind: str
    task: str
    rows: list[tuple[str, Row]]
    ignored: list[str]


def parse(file: Path) -> Table:
    """Read .csv, .jsonl, .json, .parquet or .npz. UserError names file, line, column and fix."""
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
        ".csv": _csv,
        ".jsonl": _jsonl,
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
    wanted = next((c for c in SHAPES if set(c) <= set(columns)), None)
    if wanted is None:
        known = "; ".join(", ".join(c) for c in SHAPES)
        raise UserError(
            f"{file}: its columns are {', '.join(map(repr, columns)) or 'none'}, which is no shape "
            f"that Trivet knows. Rename them to one of: {known}; a 'split' column may be added."
        )
    kind, task = SHAPES[wanted]
    if kind == "tokens and tags" and {"text", "label"} <= set(columns):
        kind, task = "text, label, tokens and tags", "classify tag"
        wanted = ("text", "label", *wanted)
    used = {*wanted, "split", *(["input"] if "instruction" in wanted else [])}
    rows = [(where, _row(file, where, row, wanted)) for where, row in raw]
    if "x" in wanted:
        numbers.alike(file, rows)
    return Table(file, kind, task, rows, [c for c in columns if c not in used])


def read_jsonl(file: Path) -> list[Row]:
    """Rows of a file that Trivet wrote, or somebody has edited since; UserError names the line."""
    return [row for _, row in _jsonl(file)]


def write_jsonl(file: Path, rows: Iterable[Row]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in rows)


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise UserError(
            f"{file}, line {line}: byte 0x{data[e.start]:02x} at offset {e.start} is not UTF-8; "
            "save the file as UTF-8 (a spreadsheet calls it 'CSV UTF-8')."
        ) from None


def _csv(file: Path) -> Iterator[tuple[str, Row]]:
    text = _text(file)
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


def _jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    for n, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as e:
            raise UserError(
                f"{file}, line {n}: not JSON ({e}); each line must hold one whole object."
            ) from None
        yield f"line {n}", _object(file, f"line {n}", row)


def _json(file: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(_text(file))
    except (json.JSONDecodeError, RecursionError) as e:
        raise UserError(f"{file}: not JSON ({e}); one object a line is called .jsonl.") from None
    if not isinstance(rows, list):
        raise UserError(
            f"{file}: holds a {type(rows).__name__}, not a list of rows: wrap it in [ ]."
        )
    for n, row in enumerate(rows, 1):
        yield f"row {n}", _object(file, f"row {n}", row)


def _object(file: Path, where: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{file}, {where}: {row!r:.40} is not an object such as {{'text': …}}.")
    return row


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{file}: not Parquet ({e}); write it anew.") from None
    for n, row in enumerate(table.to_pylist(), 1):
        yield f"row {n}", row


def _row(file: Path, where: str, row: Row, wanted: tuple[str, ...]) -> Row:
    """One row in the contract's shape; the file's own split, if any, is kept under `split`."""

    def bad(column: str, reason: str) -> UserError:
        return UserError(f"{file}, {where}, column '{column}': {reason}.")

    def cell(column: str) -> Any:
        value = row.get(column)
        lost = value is None or (isinstance(value, float) and math.isnan(value))
        if lost or value in ("", "NaN", "nan"):
            raise bad(
                column, "the value is missing (empty, null or NaN); fill it in or drop the row"
            )
        if isinstance(value, str) and not value.strip():
            raise bad(column, "the text is only white space; write some or drop the row")
        return value

    def text(column: str) -> str:
        value = cell(column)
        if isinstance(value, (list, dict)):
            raise bad(column, f"a {type(value).__name__} stands where text is wanted")
        return value if isinstance(value, str) else str(value)

    new: Row = {}
    if "text" in wanted:
        new |= {"text": text("text").strip(), "label": text("label").strip()}
    if "x" in wanted:
        new |= {"x": numbers.checked(row.get("x"), bad), "label": text("label").strip()}
    if "tokens" in wanted:
        new |= _tags(cell("tokens"), cell("tags"), bad)
        new.setdefault("text", " ".join(new["tokens"]))
    if "messages" in wanted or "conversations" in wanted:
        new["messages"] = _messages(wanted[0], cell(wanted[0]), bad)
    elif "prompt" in wanted:
        new["messages"] = _exchange(text("prompt"), text("completion"))
    elif "instruction" in wanted:
        more = row.get("input")
        has_more = isinstance(more, str) and more.strip()
        asked = text("instruction") + (f"\n\n{more}" if has_more else "")
        new["messages"] = _exchange(asked, text("output"))
    try:
        size = len(json.dumps(new, ensure_ascii=False).encode("utf-8"))
    except UnicodeEncodeError as e:
        raise bad(wanted[0], f"half a character ({e.object[e.start]!r}) stands alone") from None
    if size > MAX_BYTES:
        raise UserError(
            f"{file}, {where}: the row has {size / 1e6:.1f} MB; a row may have 1 MB. Split it into "
            "several rows (or close a double quote that is left open)."
        )
    if "split" in row:
        name = str(cell("split")).strip().lower()
        if name not in NAMES:
            raise bad("split", f"'{name}' is none of train, valid, test")
        new["split"] = NAMES[name]
    return new


def _exchange(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _tags(tokens: Any, tags: Any, bad: Callable[[str, str], UserError]) -> Row:
    lists = {}
    for name, value in (("tokens", tokens), ("tags", tags)):
        if isinstance(value, str):
            value = _loads(value) if value.lstrip().startswith("[") else value.split()
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise bad(name, "not a list of words, nor words with spaces between")
        lists[name] = value
    if len(lists["tokens"]) != len(lists["tags"]):
        raise bad("tags", f"{len(lists['tags'])} tags for {len(lists['tokens'])} tokens")
    for tag in lists["tags"]:
        if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:]):
            raise bad("tags", f"'{tag}' is not a BIO tag: O, B-name or I-name")
    for token in lists["tokens"]:
        if len(token.split()) != 1 or token != token.strip():
            raise bad("tokens", f"{token!r} is not one word: split tokens at white space")
    return lists


def _messages(column: str, value: Any, bad: Callable[[str, str], UserError]) -> list[Row]:
    """Checked turns as {role, content}; sharegpt calls them `from` and `value`."""
    value = _loads(value) if isinstance(value, str) else value
    role, content = ("from", "value") if column == "conversations" else ("role", "content")
    turns = []
    for n, turn in enumerate(value if isinstance(value, list) else [], 1):
        if not isinstance(turn, dict) or ROLES.get(str(turn.get(role))) is None:
            raise bad(column, f"turn {n} has no '{role}' that is one of {', '.join(ROLES)}")
        if not isinstance(turn.get(content), str) or not turn[content].strip():
            raise bad(column, f"turn {n} has no text in '{content}'")
        turns.append({"role": ROLES[turn[role]], "content": turn[content]})
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise bad(column, "a conversation needs a question first and the assistant's turn last")
    return turns


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None


def sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
