"""The cells of one row of a user's file: read with care, and refused by file, line and column."""

import json
import math
from pathlib import Path
from typing import Any

from trivet import UserError

Row = dict[str, Any]


class Cells:
    """`where`: words for where the row stands in the file; `row`: column -> value."""

    def __init__(self, file: Path, where: str, row: Row) -> None:
        self.file, self.where, self.row = file, where, row

    def bad(self, column: str, reason: str) -> UserError:
        return UserError(f"{self.file}, {self.where}, column '{column}': {reason}.")

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

    def words(self, column: str) -> list[str]:
        """A list of words, as a list, as JSON, or as text with spaces between. UserError."""
        value = self.value(column)
        if isinstance(value, str):
            value = parsed(value) if value.lstrip().startswith("[") else value.split()
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self.bad(column, "not a list of words, nor words with spaces between")
        return value


def parsed(text: str) -> Any:
    """JSON, or None where it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
