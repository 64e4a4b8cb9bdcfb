"""The loss over steps and epochs: as a drawing for the page, as a table for Prefect's UI.

A loss that is not finite counts as missing, and what is missing is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from trivet.records.score import Curve

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 220, 38, 12, 10, 34  # px; the last four: margins


@dataclass(frozen=True)
class Epoch:
    """`step`: its last; `train`: the mean loss; `valid`: at its end; `best`: the lowest of all."""

    epoch: int
    step: int
    train: float | None
    valid: float | None
    best: bool = False


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    best: bool
    words: str


@dataclass(frozen=True)
class Drawing:
    """In SVG units. A path is "" where there is none; `y` and `x` are ticks: (place, label)."""

    epochs: list[Epoch]
    train: str
    valid: str
    dots: list[Dot]
    y: list[tuple[float, str]]
    x: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    floor: int = HEIGHT - BOTTOM

    @property
    def best(self) -> Epoch | None:
        return next((epoch for epoch in self.epochs if epoch.best), None)


def curve_markdown(curve: Curve) -> str:
    """A table, an epoch a line, with a bar for the validation loss.

    No image: the markdown of Prefect's UI drops data URIs.
    """
    rows = epochs(curve)
    longest = max((row.valid for row in rows if row.valid is not None), default=0.0)
    lines = ["| epoch | train loss | valid loss | |", "|---:|---:|---:|:---|"]
    for row in rows:
        bar = "█" * round(24 * (row.valid or 0) / longest) if longest else ""
        if row.best:
            bar += " kept"
        lines.append(f"| {row.epoch} | {loss_words(row.train)} | {loss_words(row.valid)} | {bar} |")
    return "\n".join(lines) + "\n"


def epochs(curve: Curve) -> list[Epoch]:
    points, rows = curve.points, []
    for number in sorted({p.epoch for p in points}):
        own = [p for p in points if p.epoch == number]
        train = [p.train_loss for p in own if math.isfinite(p.train_loss)]
        valid = [p.valid_loss for p in own if _finite(p.valid_loss)]
        mean = fmean(train) if train else None
        rows.append(Epoch(number, own[-1].step, mean, valid[-1] if valid else None))
    lowest = min((row.valid for row in rows if row.valid is not None), default=None)
    best = next((row for row in rows if row.valid is not None and row.valid == lowest), None)
    return [Epoch(r.epoch, r.step, r.train, r.valid, r is best) for r in rows]


def drawing(curve: Curve) -> Drawing:
    points, rows = curve.points, epochs(curve)
    train = [(p.step, p.train_loss) for p in points if math.isfinite(p.train_loss)]
    valid = [(row, row.valid) for row in rows if row.valid is not None]
    top = max([loss for _, loss in [*train, *valid]], default=1.0) or 1.0
    last = max([p.step for p in points], default=1)

    def at(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return round(x, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top, 1)

    tick = _round_up(top / 4)
    few = max(1, math.ceil(len(rows) / 10))
    return Drawing(
        epochs=rows,
        train=_path([at(*point) for point in thin(train)]),
        valid=_path([at(row.step, loss) for row, loss in valid]),
        dots=[
            Dot(*at(row.step, loss), row.best, f"epoch {row.epoch}: {loss:.3f}")
            for row, loss in valid
        ],
        y=[(at(0, i * tick)[1], f"{i * tick:g}") for i in range(int(top / tick + 1e-9) + 1)],
        x=[(at(r.step, 0)[0], str(r.epoch)) for r in rows if r.epoch % few == 0],
    )


def thin(points: Sequence[tuple[int, float]], most: int = 300) -> list[tuple[float, float]]:
    """Means of neighbours, so that a long curve stays a line and not a band."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(s for s, _ in g), fmean(v for _, v in g)) for g in groups]


def loss_words(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _round_up(step: float) -> float:
    """1, 2 or 5 times a power of ten, not below `step`."""
    unit = 10.0 ** math.floor(math.log10(step))
    return next(f * unit for f in (1, 2, 5, 10) if f * unit >= step * (1 - 1e-9))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x} {y}" for x, y in points) if points else ""
