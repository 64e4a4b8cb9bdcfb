"""Random vectors hold the edges of the types, and a form that differs is counted.

Run: .venv/bin/pytest tests/unit/hw/test_vectors.py
"""

import numpy as np
import pytest
from hw_reference import X, chain

from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.qat import quantize
from trivet.hw.vectors import Equality, compare, random_vectors


@pytest.mark.parametrize("rows", ["ids", "sequence"])
def test_random_vectors_hold_the_edges_and_stay_in_range(rows: str) -> None:
    network, x = chain(rows)
    kind = Fixed(4, 4, signed=False) if rows == "ids" else Fixed(7, 2)
    fixed = quantize(network, x[:50], np.eye(4)[np.arange(50) % 4], 6, 6, 0, 0, input_type=kind)
    vectors = random_vectors(fixed, 2000, 0)
    low, high = (0, 10) if rows == "ids" else (-2, 2 - 2**-5)
    assert vectors.shape == (2000, *network.shape) and vectors.dtype == np.float32
    size, ends = vectors[0].size, [high] if rows == "ids" else [high, low]
    edges = [np.zeros((1, size)), *(np.full((1, size), end) for end in ends)]
    edges = np.vstack([*edges, *(np.eye(size) * end for end in ends)])
    assert np.array_equal(vectors[: len(edges)].reshape(-1, size), edges)
    assert (
        vectors.min() == low and vectors.max() == high and (kind.quantize(vectors) == vectors).all()
    )
    filled = (vectors.reshape(2000, -1)[len(edges) :] != 0).mean(1)
    assert filled.min() < 0.1 and filled.max() > 0.7
    assert np.array_equal(vectors, random_vectors(fixed, 2000, 0))
    assert random_vectors(fixed, 2, 0).shape == (2, *network.shape)


def test_a_form_that_differs_on_some_rows_is_counted(fixed: FixedNetwork) -> None:
    def other(x: np.ndarray) -> np.ndarray:
        logits = fixed.logits(x)
        logits[::4, 3] += 2.0**-10  # one logit of every fourth row
        return logits

    assert compare(fixed, fixed.logits, X[:50], 200) == Equality(50, 50, 200, 200)
    assert compare(fixed, other, X[:50], 200) == Equality(50, 37, 200, 150)
    assert compare(fixed, other, X[:0], 200) == Equality(0, 0, 200, 150)
