"""The search: trials kept as files, the next points from those finished, the best within a budget.

Run: .venv/bin/pytest tests/unit/hw/test_search.py
"""

from pathlib import Path

import numpy as np
import pytest

from trivet.hw.errors import DesignError
from trivet.hw.search.pareto import choose, draw, front
from trivet.hw.search.space import propose, space
from trivet.hw.search.trial import Point, Trial, load, store

SPACE = space([8], 2)


def point(sparsity: float) -> Point:
    return Point(hidden=(8,), weight_bits=(3, 3), sparsity=(sparsity, 0.5), activation_bits=(4, 8))


def trial(accuracy: float, cost: float, cycles: int = 6, at: Point | None = None) -> Trial:
    named = at or point(0.0).model_copy(update={"hidden": (len(str((accuracy, cost, cycles))),)})
    return Trial(point=named, accuracy=accuracy, cost=cost, cycles=cycles, seconds=1.0)


@pytest.fixture
def trials() -> list[Trial]:
    """Two points of one's own and two that were proposed: more zeros, fewer LUTs."""
    points = [point(0.3), point(0.8), *propose(SPACE, [], 0, 2)]
    return [trial(0.9 - one.sparsity[0] / 4, 1e3 - 700 * one.sparsity[0], 6, one) for one in points]


def test_points_are_new_in_the_space_and_the_same_for_a_seed(trials: list[Trial]) -> None:
    points = propose(SPACE, trials, 1, 3)
    assert points == propose(SPACE, trials, 1, 3) != propose(SPACE, trials, 2, 3)
    assert not any(trial.point in points for trial in trials)
    for one in points:
        assert 4 <= one.hidden[0] <= 16
        assert all(2 <= bits <= 6 for bits in one.weight_bits)
        assert all(0 <= share <= 0.95 for share in one.sparsity)
        assert len(one.sparsity) == len(one.activation_bits) == 2


def test_finished_trials_are_learnt_from() -> None:
    """Where many zeros are accurate and cheap, the next points have many zeros."""
    seen = [
        trial(one.sparsity[0], 900 - 500 * one.sparsity[0], at=one)
        for one in propose(SPACE, [], 0, 24)
    ]
    before = np.mean([trial.accuracy for trial in seen])
    after = np.mean([one.sparsity[0] for one in propose(SPACE, seen, 0, 12)])
    assert after > before + 0.15


def test_a_killed_search_keeps_its_finished_trials(trials: list[Trial], tmp_path: Path) -> None:
    for one in trials:
        store(one, tmp_path)
    (tmp_path / "0123.part").write_text('{"point"')  # killed while it wrote
    stored = load(tmp_path)
    key = lambda one: str(one.point)  # noqa: E731
    assert sorted(stored, key=key) == sorted(trials, key=key)
    store(trials[0], tmp_path)
    assert load(tmp_path) == stored


def test_the_front_has_what_nothing_beats() -> None:
    small, large, slow, beaten = (
        trial(0.8, 900),
        trial(0.9, 2000),
        trial(0.9, 1900, 9),
        trial(0.7, 950),
    )
    assert front([beaten, large, small, slow]) == [small, slow, large]


def test_the_budget_chooses() -> None:
    some = [trial(0.8, 900), trial(0.9, 2000), trial(0.9, 1900, 9), trial(0.95, 5000)]
    assert choose(some, 2500, 12) == some[2]  # as accurate, and smaller
    assert choose(some, 2500, 6) == some[1]
    assert choose(some, 2000, 12) == some[0]  # 1,900 by alkaid may be 2,090 by yosys
    with pytest.raises(DesignError, match=r"max_lut = 500.*about 990 LUTs and 6 cycles"):
        choose(some, 500, 12)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_shows_the_trials(trials: list[Trial], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pareto.{suffix}"
    draw(trials, choose(trials, 5000, 12), path, 5000)
    assert path.stat().st_size > 5000
