"""Intervals and paired differences against closed forms, scikit-learn, seqeval and scipy.

Run: pytest tests/unit/test_tally.py
"""

from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import f1_score

from trivet.records.score import Difference
from trivet.tasks import classify, tag
from trivet.tasks.tally import DRAWS, Tally

Z = stats.norm.ppf(0.975)
# The 2.5 % quantile of DRAWS draws of a normal: √(p q / DRAWS) / density there, in deviations.
QUANTILE_ERROR = sqrt(0.025 * 0.975 / DRAWS) / stats.norm.pdf(Z)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("right", "rows"), [(497, 600), (0, 40), (40, 40), (1, 2)])
def test_wilsons_interval_is_its_closed_form(right: int, rows: int) -> None:
    low, high = Tally.right(np.arange(rows) < right).interval()
    p, n = right / rows, rows
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize(("won", "lost"), [(30, 12), (12, 30), (0, 0), (7, 0)])
def test_a_difference_of_right_rows_is_paired(won: int, lost: int) -> None:
    """Agresti and Min (2005), Wald + 2: half a row more in each of the four cells. McNemar's exact
    p: twice the tail of a fair coin.
    """
    n = 600
    one, other = np.ones(n), np.ones(n)
    other[:won], one[won : won + lost] = 0, 0
    difference = Tally.right(one).minus(Tally.right(other))
    b, c, m = won + 0.5, lost + 0.5, n + 2
    half = Z * sqrt((b + c) - (b - c) ** 2 / m) / m
    assert difference.value == pytest.approx((won - lost) / n)
    ends = ((b - c) / m - half, (b - c) / m + half)
    assert (difference.low, difference.high) == pytest.approx(ends, abs=1e-12)
    total = won + lost
    tail = sum(comb(total, k) for k in range(min(won, lost) + 1)) / 2**total
    assert difference.p_value == pytest.approx(min(1.0, 2 * tail))


def test_what_both_get_wrong_says_nothing_of_their_difference(draw: np.random.Generator) -> None:
    """Unpaired, 2 % of the rows would drown in the error of either share."""
    one = draw.random(600) < 0.7
    other = one.copy()
    other[np.flatnonzero(one)[:12]] = False
    difference = Tally.right(one).minus(Tally.right(other))
    p, q = one.mean(), other.mean()
    unpaired = Z * sqrt(p * (1 - p) / 600 + q * (1 - q) / 600)
    assert difference.low is not None and difference.high is not None
    assert difference.low > 0 > difference.value - unpaired
    assert difference.sure and difference.gain(lower_is_better=True).value < 0


def test_few_rows_convince_the_exact_test_less_easily() -> None:
    """Of 12 rows 9 won and 2 lost: zero is outside the interval, McNemar's p is 134 / 2048."""
    one, other = np.ones(12), np.ones(12)
    one[:2], other[2:11] = 0, 0
    difference = Tally.right(one).minus(Tally.right(other))
    assert difference.low is not None and difference.low > 0
    assert difference.p_value == pytest.approx(134 / 2048) and not difference.sure


def test_the_bootstrap_of_a_mean_has_its_standard_error(draw: np.random.Generator) -> None:
    values = draw.gamma(2.0, 1.0, 500)
    low, high = Tally(values, np.ones(500)).interval()
    error = values.std() / sqrt(500)
    # 4 errors of the quantile, and the third moment's share that a normal has not
    near = 4 * QUANTILE_ERROR * error + error * abs(stats.skew(values)) / sqrt(500)
    assert low == pytest.approx(values.mean() - Z * error, abs=near)
    assert high == pytest.approx(values.mean() + Z * error, abs=near)


def test_rows_are_drawn_whole_and_the_same_for_both(draw: np.random.Generator) -> None:
    """Losses of replies of 1 to 40 tokens: the delta method's error of a ratio of sums."""
    tokens = draw.integers(1, 40, 400).astype(float)
    loss = tokens * draw.gamma(4.0, 0.5, 400)
    better = Tally(loss - 0.02 * tokens, tokens)  # each row by the same: no doubt is left
    difference = better.minus(Tally(loss, tokens))
    assert (difference.value, difference.low, difference.high) == pytest.approx((-0.02,) * 3)
    noise = draw.normal(0, 0.3, 400) * tokens
    difference = Tally(loss + noise, tokens).minus(Tally(loss, tokens))
    ratio = noise.sum() / tokens.sum()
    error = sqrt(((noise - ratio * tokens) ** 2).sum()) / tokens.sum()
    assert difference.low is not None and difference.high is not None
    assert (difference.high - difference.low) / 2 == pytest.approx(Z * error, rel=0.1)
    assert difference.low < ratio < difference.high and difference.p_value is None


def test_too_few_rows_say_nothing() -> None:
    assert Tally(np.array([2.0]), np.array([3.0])).interval() == (None, None)
    assert Tally(np.zeros(3), np.zeros(3)).metric("span_f1").value == 0


def test_macro_f1_of_many_draws_is_scikit_learns(draw: np.random.Generator) -> None:
    truth = draw.integers(0, 7, (20, 90))
    guess = np.where(draw.random(truth.shape) < 0.6, truth, draw.integers(0, 9, truth.shape))
    own = classify._macro_f1(truth, guess, -1)
    stock = [
        f1_score(t, g, average="macro", zero_division=0.0)
        for t, g in zip(truth, guess, strict=True)
    ]
    assert own == pytest.approx(stock, abs=1e-12)
    _, second = classify.figures(truth[0], guess[0])
    assert second.value == stock[0]
    assert second.low is not None and second.high is not None and second.low < second.high


def test_span_f1_by_row_is_seqevals(draw: np.random.Generator) -> None:
    tags = ["O", "B-a", "I-a", "B-b", "I-b"]
    truth = [[tags[i] for i in draw.integers(0, 5, n)] for n in draw.integers(1, 9, 80)]
    guess = [[t if draw.random() < 0.8 else tags[draw.integers(0, 5)] for t in r] for r in truth]
    spans, words = tag.figures(truth, guess)
    assert spans.value == pytest.approx(seqeval_f1(truth, guess), abs=1e-12)
    right = np.concatenate(truth) == np.concatenate(guess)
    assert words.value == pytest.approx(right.mean(), abs=1e-12)


def test_a_tally_is_the_same_once_it_lay_on_the_disk(
    tmp_path: Path, draw: np.random.Generator
) -> None:
    tally = Tally(draw.random(9), draw.random(9))
    tally.save(tmp_path)
    again = Tally.load(tmp_path)
    assert np.array_equal(tally.numerator, again.numerator) and again.value == tally.value


@pytest.mark.parametrize(
    ("value", "lower_is_better", "words"),
    [
        (0.012, False, "1.2 points ± 1.4"),
        (-0.01, False, "1.0 point ± 1.4"),
        (-0.12, True, "0.120 ± 0.014"),
    ],
)
def test_a_difference_in_words(value: float, lower_is_better: bool, words: str) -> None:
    difference = Difference(value=value, low=value - 0.014, high=value + 0.014)
    assert difference.words(lower_is_better) == words
