"""Logits are written as they come: the file holds what memory would, in the order of the rows.

Run: pytest tests/unit/test_scoring.py
"""

from pathlib import Path

import numpy as np

from trivet.evaluate.score import Table, ask
from trivet.plugins import TASKS
from trivet.tasks.example import Row

COUNTS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
ROWS = [{"text": "x" * n} for n in COUNTS]


class Drawn:
    """Answers of a row of n characters: n x 7 numbers that depend on n alone."""

    largest = 0

    def answer(self, rows: list[Row]) -> list[np.ndarray]:
        self.largest = max(self.largest, len(rows))
        return [drawn(len(row["text"])) for row in rows]


def drawn(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 7))


def test_rows_are_written_in_their_own_order(tmp_path: Path) -> None:
    session = Drawn()
    wanted = np.concatenate([drawn(n) for n in COUNTS]).astype(np.float32)
    in_memory = ask(session, ROWS, TASKS["classify"])
    table = Table(tmp_path / "logits.npy", COUNTS)
    on_disk = ask(session, ROWS, TASKS["classify"], to=table)
    assert np.array_equal(in_memory.logits, wanted) and session.largest == 16
    assert np.array_equal(on_disk.logits, wanted) and on_disk.logits.dtype == np.float32
    assert isinstance(on_disk.logits, np.memmap)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), wanted)
