"""The search: trials on validation rows, kept as files, the next points from those finished.

Run: .venv/bin/pytest tests/test_search.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trivet import UserError
from trivet.hw import search
from trivet.hw.fixed import Fixed

torch.set_num_threads(1)
DATA = load_digits()
X = (DATA.data * 3 / 16).round().astype(np.uint8)
ROWS = search.Rows(
    X[:1200], np.eye(10)[DATA.target[:1200]], X[1200:], DATA.target[1200:], Fixed(2, 2, False)
)
SPACE = search.space([8], 2)


def point(sparsity: float) -> search.Point:
    return {
        "hidden": [8],
        "weight_bits": [3, 3],
        "sparsity": [sparsity, 0.5],
        "activation_bits": [4, 8],
    }


def trial(accuracy: float, cost: float, cycles: int = 6) -> search.Trial:
    named = point(0.0) | {"hidden": [len(str((accuracy, cost, cycles)))]}
    return {"point": named, "accuracy": accuracy, "cost": cost, "cycles": cycles, "seconds": 1.0}


@pytest.fixture(scope="module")
def trials() -> list[search.Trial]:
    points = [point(0.3), point(0.8), *search.propose(SPACE, [], 0, 2)]
    return [search.evaluate(one, ROWS, 10, 0) for one in points]


def test_a_trial_is_judged_on_validation_rows_and_measured(trials: list[search.Trial]) -> None:
    dense, sparse = trials[:2]
    assert dense["accuracy"] > 0.6 and 2 <= dense["cycles"] <= 12
    assert sparse["cost"] < 0.7 * dense["cost"]  # what zeros are for
    again = search.evaluate(point(0.3), ROWS, 10, 0)
    assert again | {"seconds": 0} == dense | {"seconds": 0}
    wrong = search.Rows(ROWS.x, ROWS.targets, ROWS.valid_x, (ROWS.valid_y + 1) % 10, ROWS.given)
    assert search.evaluate(point(0.3), wrong, 10, 0)["accuracy"] < 0.2


def test_points_are_new_in_the_space_and_the_same_for_a_seed(trials: list[search.Trial]) -> None:
    found = search.propose(SPACE, trials, 1, 3)
    assert found == search.propose(SPACE, trials, 1, 3) != search.propose(SPACE, trials, 2, 3)
    assert not any(trial["point"] in found for trial in trials)
    for one in found:
        assert 4 <= one["hidden"][0] <= 16
        assert all(2 <= bits <= 6 for bits in one["weight_bits"])
        assert all(0 <= share <= 0.95 for share in one["sparsity"])
        assert len(one["sparsity"]) == len(one["activation_bits"]) == 2


def test_finished_trials_are_learnt_from() -> None:
    """Where many zeros are accurate and cheap, the next points have many zeros."""
    seen = [
        {
            "point": one,
            "accuracy": one["sparsity"][0],
            "cost": 900 - 500 * one["sparsity"][0],
            "cycles": 6,
            "seconds": 1.0,
        }
        for one in search.propose(SPACE, [], 0, 24)
    ]
    before = np.mean([trial["accuracy"] for trial in seen])
    after = np.mean([one["sparsity"][0] for one in search.propose(SPACE, seen, 0, 12)])
    assert after > before + 0.15


def test_a_killed_search_keeps_its_finished_trials(
    trials: list[search.Trial], tmp_path: Path
) -> None:
    for one in trials:
        search.write(one, tmp_path)
    (tmp_path / "0123.part").write_text('{"point"')  # killed while it wrote
    kept = search.read(tmp_path)
    key = lambda one: str(one["point"])  # noqa: E731
    assert sorted(kept, key=key) == sorted(trials, key=key)
    search.write(trials[0], tmp_path)
    assert search.read(tmp_path) == kept


def test_the_front_has_what_nothing_beats() -> None:
    small, large, slow, beaten = (
        trial(0.8, 900),
        trial(0.9, 2000),
        trial(0.9, 1900, 9),
        trial(0.7, 950),
    )
    assert search.pareto([beaten, large, small, slow]) == [small, slow, large]


def test_the_budget_chooses() -> None:
    some = [trial(0.8, 900), trial(0.9, 2000), trial(0.9, 1900, 9), trial(0.95, 5000)]
    assert search.choose(some, 2500, 12) == some[2]  # as accurate, and smaller
    assert search.choose(some, 2500, 6) == some[1]
    assert search.choose(some, 2000, 12) == some[0]  # 1,900 by alkaid may be 2,090 by yosys
    with pytest.raises(UserError, match=r"fpga.max_lut = 500.*about 990 LUTs and 6 cycles"):
        search.choose(some, 500, 12)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_shows_the_trials(
    trials: list[search.Trial], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"pareto.{suffix}"
    search.picture(trials, search.choose(trials, 5000, 12), path, 5000)
    assert path.stat().st_size > 5000
