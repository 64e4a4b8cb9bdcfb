"""A trial of the search learns as a run would and is judged on validation rows alone.

Run: .venv/bin/pytest tests/rtl/test_search_trial.py
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

from trivet.hw.fixed import Fixed
from trivet.hw.search.trial import LearningRows, Point, evaluate

torch.set_num_threads(1)
DATA = load_digits()
X = (DATA.data * 3 / 16).round().astype(np.uint8)
ROWS = LearningRows(
    X[:1200], np.eye(10)[DATA.target[:1200]], X[1200:], DATA.target[1200:], Fixed(2, 2, False)
)


def point(sparsity: float) -> Point:
    return Point(hidden=(8,), weight_bits=(3, 3), sparsity=(sparsity, 0.5), activation_bits=(4, 8))


def test_a_trial_is_judged_on_validation_rows_and_measured() -> None:
    dense, sparse = (evaluate(point(zeros), ROWS, 10, 0) for zeros in (0.3, 0.8))
    assert dense.accuracy > 0.6 and 2 <= dense.cycles <= 12
    assert sparse.cost < 0.7 * dense.cost  # what zeros are for
    again = evaluate(point(0.3), ROWS, 10, 0)
    assert again.model_copy(update={"seconds": dense.seconds}) == dense
    wrong = LearningRows(
        ROWS.x, ROWS.targets, ROWS.valid_x, (ROWS.valid_y + 1) % 10, ROWS.input_type
    )
    assert evaluate(point(0.3), wrong, 10, 0).accuracy < 0.2
