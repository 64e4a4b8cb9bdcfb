"""A metric row by row, and from its rows how sure it is.

A metric that stages are compared by is a ratio of sums over the held-out rows: right rows over
rows, nats over tokens, twice the spans that are right over the spans that there are. So another
draw of rows is another sum, and two stages that answered the same rows are compared row with row:
what both get wrong says nothing of their difference.

    rows right or wrong   Wilson's interval (1927); a difference: the paired interval of Agresti and
                          Min (2005), which adds half a row to each of the four counts, and the p
                          of McNemar's exact test
    everything else       percentiles of a bootstrap that draws whole rows, the same for both

Not covered: rows that belong together (sentences of one template), which make a true interval wider
than these; other seeds of the training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Self

import numpy as np

from trivet.records.score import Difference, HeldOut, Metric

CONFIDENCE = 0.95
Z = 1.959963984540054  # of the normal distribution, 95 % within
DRAWS = 2000  # of the bootstrap; its 2.5 % then stand on 50 draws
CELLS = 4_000_000  # rows that are drawn at once, for the memory
FILE = "tally.npz"


@dataclass(frozen=True)
class Tally:
    """`numerator`, `denominator`: float64 [rows]; the metric is the ratio of their sums."""

    numerator: np.ndarray
    denominator: np.ndarray

    @classmethod
    def right(cls, rows: Any) -> Self:
        """Of rows that are right or wrong."""
        right = np.asarray(rows, np.float64)
        return cls(right, np.ones_like(right))

    @classmethod
    def of(cls, held_out: HeldOut) -> Self:
        return cls(np.array(held_out.numerator), np.array(held_out.denominator))

    @classmethod
    def load(cls, folder: Path) -> Self:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return cls(arrays["numerator"], arrays["denominator"])

    def save(self, folder: Path) -> None:
        np.savez(folder / FILE, numerator=self.numerator, denominator=self.denominator)

    @property
    def value(self) -> float:
        return float(_ratio(self.numerator, self.denominator))

    @property
    def binary(self) -> bool:
        whole = np.isin(self.numerator, (0, 1)).all() and (self.denominator == 1).all()
        return bool(whole)

    def metric(self, name: str) -> Metric:
        low, high = self.interval()
        return Metric(name=name, value=self.value, low=low, high=high)

    def interval(self) -> tuple[float | None, float | None]:
        """95 %; (None, None) where there are too few rows to say."""
        if not self.binary:
            return bootstrap(_ratio, self.numerator, self.denominator)
        from scipy.stats import binomtest

        count = binomtest(round(self.numerator.sum()), len(self.numerator))
        ends = count.proportion_ci(CONFIDENCE, method="wilson")
        return float(ends.low), float(ends.high)

    def minus(self, other: "Tally") -> Difference:
        """This one's value less the other's, on the same rows in the same order."""
        value = self.value - other.value
        if self.binary and other.binary:
            more = self.numerator - other.numerator
            return _paired(value, more > 0, more < 0)
        low, high = bootstrap(
            lambda a, b, c, d, axis: _ratio(a, b, axis) - _ratio(c, d, axis),
            *(self.numerator, self.denominator, other.numerator, other.denominator),
        )
        return Difference(value=value, low=low, high=high)


def bootstrap(
    statistic: Callable[..., Any], *arrays: np.ndarray
) -> tuple[float | None, float | None]:
    """The percentile interval of `statistic(*arrays, axis)` over rows drawn anew, seeded."""
    from scipy import stats

    rows = len(arrays[0])
    if rows < 2:
        return None, None
    ends = stats.bootstrap(
        arrays,
        statistic,
        n_resamples=DRAWS,
        batch=max(1, CELLS // rows),
        vectorized=True,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, axis: int = -1) -> Any:
    """Of the sums; 0 where there is nothing to count, as seqeval has it."""
    above, below = numerator.sum(axis), denominator.sum(axis)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _paired(value: float, won: np.ndarray, lost: np.ndarray) -> Difference:
    """From the rows that one of the two has right: those `won` and those `lost`, bool [rows]."""
    from scipy.stats import binomtest

    b, c, n = int(won.sum()), int(lost.sum()), len(won)
    centre = (b - c) / (n + 2)
    half = Z * sqrt((b + c + 1) / (n + 2) - centre**2) / sqrt(n + 2)
    p_value = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Difference(value=value, low=low, high=high, p_value=p_value)
