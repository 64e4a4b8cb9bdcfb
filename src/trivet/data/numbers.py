"""Rows of numbers: a NumPy table, or lists in a JSONL or Parquet file.

What has no language in it goes to the chip's student alone: measurements [features], a signal
[length, channels], or token ids [length]. Not here: texts and their columns (`rows.py`), how
numbers become a chip's input (`inputs.py`).
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from trivet import UserError
from trivet.data.cells import Cells, Row


def read(file: object, source: IO[bytes]) -> Iterator[tuple[int, Row]]:
    """The rows of an .npz file: arrays `x`, `y` and perhaps `split`. UserError names the array."""
    try:
        with np.load(io.BytesIO(source.read()), allow_pickle=False) as arrays:
            tables = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as e:
        raise UserError(
            f"{file}: not an .npz file of plain arrays ({e}); write it with numpy.savez(FILE, x=…, "
            "y=…) and no Python objects."
        ) from None
    x, y = tables.get("x"), tables.get("y")
    if x is None or y is None:
        names = ", ".join(tables) or "none"
        raise UserError(f"{file}: its arrays are {names}; it needs x (the rows) and y (labels).")
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3):
        raise UserError(
            f"{file}, array 'x': {x.dtype} {list(x.shape)}; numbers [rows, features] or [rows, "
            "length, channels] are wanted, or whole numbers [rows, length] for token ids."
        )
    if y.dtype.kind not in "biuU" or y.shape != x.shape[:1]:
        raise UserError(
            f"{file}, array 'y': {y.dtype} {list(y.shape)}; one whole number or text for each of "
            f"the {len(x)} rows of x is wanted."
        )
    splits = tables.get("split")
    if splits is not None and splits.shape != y.shape:
        raise UserError(f"{file}, array 'split': {list(splits.shape)}; one for each row is wanted.")
    for n, (values, label) in enumerate(zip(x.tolist(), y.tolist(), strict=True), 1):
        own = {} if splits is None else {"split": str(splits[n - 1])}
        yield n, {"x": values, "label": str(label)} | own


def alike(cells: Cells, row: Row, first: Row) -> None:
    """Each row's numbers must have the first one's shape. UserError."""
    if np.shape(row["x"]) != np.shape(first["x"]):
        raise cells.bad(
            "x",
            f"{list(np.shape(row['x']))} numbers, but the first row has "
            f"{list(np.shape(first['x']))}; pad or cut the rows to one length",
        )


def checked(value: Any, bad: Callable[[str, str], UserError]) -> list[Any]:
    """A row's numbers as they were, or the error `bad(column, reason)`."""
    try:
        x = np.array(value)
    except ValueError:  # ragged
        x = np.empty(0)
    if x.dtype.kind not in "biuf" or x.ndim not in (1, 2) or not x.size:
        raise bad("x", "not a list of numbers, nor a list of equally long lists of them")
    if not np.isfinite(x).all():
        at = np.argwhere(~np.isfinite(x))[0].tolist()
        raise bad("x", f"the value at {at} is NaN or infinite; fill it in or drop the row")
    return (x.astype(int) if x.dtype.kind == "b" else x).tolist()
