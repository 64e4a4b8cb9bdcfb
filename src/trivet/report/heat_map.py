"""Which labels are mixed up: the confusion matrix as a heat map, and its worst mistakes."""

from dataclasses import dataclass

from trivet.records.score import Confusion

MOST_LABELS = 45  # a heat map of more cannot be read
CELL, LETTER = 18, 6.4  # px: a cell's side, a letter's usual width
LONGEST = 28  # letters of a label


@dataclass(frozen=True)
class Cell:
    """`x` and `y` count cells. `shade`: of the truth's rows, the share that is here, 0.12-1."""

    x: int
    y: int
    n: int
    right: bool
    shade: float
    words: str


@dataclass(frozen=True)
class HeatMap:
    """Truth down, answers across. `names` are drawn, of `labels` in all; `left`, `overhang`: px of
    their words; `mistakes`: (rows, truth, answer), most first; `wrong` of `rows`.
    """

    names: list[str]
    labels: int
    cells: list[Cell]
    left: int
    overhang: int
    mistakes: list[tuple[int, str, str]]
    wrong: int
    rows: int
    cell: int = CELL


def heat_map(confusion: Confusion) -> HeatMap:
    """Of many labels, the MOST_LABELS with most test rows are drawn."""
    labels, matrix = confusion.labels, confusion.matrix
    counts = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n]
    mistakes = sorted((n, labels[i], labels[j]) for n, i, j in counts if i != j)[::-1]
    most = sorted(range(len(labels)), key=lambda i: -sum(matrix[i]))[:MOST_LABELS]
    place = {i: at for at, i in enumerate(sorted(most))}
    names = [_short(labels[i]) for i in place]
    left = 16 + LETTER * max(map(len, names))
    cells = [
        Cell(
            x=place[j],
            y=place[i],
            n=n,
            right=i == j,
            shade=round(0.12 + 0.88 * n / sum(matrix[i]), 3),  # a single mistake must be seen
            words=f"{labels[i]} answered as {labels[j]}: {n} of {sum(matrix[i])}",
        )
        for n, i, j in counts
        if i in place and j in place
    ]
    return HeatMap(
        names=names,
        labels=len(labels),
        cells=cells,
        left=round(left),
        overhang=round(0.5 * left),
        mistakes=mistakes[:5],
        wrong=sum(n for n, _, _ in mistakes),
        rows=sum(map(sum, matrix)),
    )


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
