"""The cells of one row of a user's file: read with care, and refused by file, line and column."""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from trivet import UserError

Row = dict[str, Any]


class BadRow(UserError):
    """Why one row cannot be used. `where`: words for its place in the file; `reason`: the rest."""

    def __init__(self, file: object, where: str, reason: str, column: str = "") -> None:
        place = f", column '{column}'" if column else ""
        super().__init__(f"{file}, {where}{place}: {reason}")
        self.where, self.reason = where, f"column '{column}': {reason}" if column else reason


class Journal:
    """What is said of a file beside its rows.

    `ignore`: columns, and keys of turns, that the recipe names as ignored; `names`: a format's
    column -> the file's own. `ignored`: column -> rows that have it and are used without it;
    `changes`: what was done to values, in words -> rows.
    """

    def __init__(self, ignore: Collection[str] = (), names: Mapping[str, str] | None = None):
        self.ignore, self.names = frozenset(ignore), dict(names or {})
        self.ignored: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()


class Cells:
    """`where`: words for where the row stands in the file; `row`: column -> value."""

    def __init__(self, file: object, where: str, row: Row, journal: Journal | None = None) -> None:
        self.file, self.where, self.row = file, where, row
        self.journal = journal or Journal()

    def bad(self, column: str, reason: str) -> BadRow:
        return BadRow(self.file, self.where, f"{reason}.", self.journal.names.get(column, column))

    def value(self, column: str) -> Any:
        """The cell, which must not be empty. UserError."""
        value = self.row.get(column)
        lost = value is None or (isinstance(value, float) and math.isnan(value))
        if lost or value in ("", "NaN", "nan"):
            raise self.bad(
                column, "the value is missing (empty, null or NaN); fill it in or drop the row"
            )
        if isinstance(value, str) and not value.strip():
            raise self.bad(column, "the text is only white space; write some or drop the row")
        return value

    def text(self, column: str) -> str:
        """The cell as text. UserError where it is a list or an object."""
        value = self.value(column)
        if isinstance(value, (list, dict)):
            raise self.bad(column, f"a {type(value).__name__} stands where text is wanted")
        return value if isinstance(value, str) else str(value)

    def trimmed(self, column: str) -> str:
        """The cell as text without white space around it, which is counted. UserError."""
        text = self.text(column)
        bare = text.strip()
        if bare != text:
            self.journal.changes[f"White space around '{column}' was taken off"] += 1
        return bare

    def words(self, column: str) -> list[str]:
        """A list of words, as a list, as JSON, or as text with spaces between. UserError."""
        value = self.value(column)
        if isinstance(value, str):
            value = parsed(value) if value.lstrip().startswith("[") else value.split()
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self.bad(column, "not a list of words, nor words with spaces between")
        return value


def empty(value: Any) -> bool:
    """Nothing is lost with it: null, NaN, white space, an empty list or object."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], {}) or (isinstance(value, float) and math.isnan(value))


def parsed(text: str) -> Any:
    """JSON, or None where it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
