"""Vectors that a chip may be fed, and whether another form of the network answers them the same.

Rows of a data set seldom reach the ends of a type, where rounding and saturation go wrong; so the
random vectors start with the edges.
Not here: the golden vectors' files (rtl/testbench.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trivet.hw.fixed import FixedNetwork


@dataclass(frozen=True)
class Equality:
    """On how many rows, and on how many random vectors, all logits are equal bit for bit."""

    rows: int
    equal_rows: int
    vectors: int
    equal_vectors: int


def random_vectors(fixed: FixedNetwork, n: int, seed: int) -> np.ndarray:
    """n rows that the chip may be fed, float32 [n, *shape]: edges first, then sparse to dense.

    Edges: all zero; all at the largest, at the smallest value; each input alone at either (fewer
    when n is small). Ids stay among the tokens, numbers within their type.
    """
    rng = np.random.default_rng(seed)
    size = math.prod(fixed.shape)
    ids, kind = fixed.layers[0].kind == "embedding", fixed.input_type
    low, high = (0, len(fixed.weights[0]) - 1) if ids else (kind.low, kind.high)
    ends = [high, low] if low else [high]
    alone = np.eye(size, dtype=np.int32)
    edges = np.vstack(
        [0 * alone[:1], *(0 * alone[:1] + end for end in ends), *(alone * end for end in ends)]
    )[:n]
    codes = rng.integers(low, high, (n - len(edges), size), np.int32, endpoint=True)
    codes *= rng.random(codes.shape, np.float32) < rng.random((len(codes), 1), np.float32)
    rows = np.vstack([edges, codes]).astype(np.float32) * np.float32(2.0**-kind.fraction)
    return rows.reshape(n, *fixed.shape)


def compare(
    fixed: FixedNetwork,
    logits: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    vectors: int,
    seed: int = 0,
) -> Equality:
    """On how many of `rows` and of so many random vectors, edges included, another way to compute
    the network (C simulation, interpreter, RTL) gives all of its logits bit for bit.
    """

    def equal(x: np.ndarray) -> int:
        return int((logits(x) == fixed.logits(x)).all(1).sum()) if len(x) else 0

    return Equality(len(rows), equal(rows), vectors, equal(random_vectors(fixed, vectors, seed)))
