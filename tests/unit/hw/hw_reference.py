"""What several tests of the chip take: real digits, chains of every kind, an exact oracle.

The oracle knows fractions alone: it follows what `FixedNetwork` says of itself, layer by layer.
"""

from fractions import Fraction

import numpy as np
import torch
from sklearn.datasets import load_digits

from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.network import Network
from trivet.hw.steps import Step

GREY = Fixed(2, 2, signed=False)  # of the pictures' pixels
DATA = load_digits()
X, LABELS = (DATA.data * 3 / 16).round().astype(np.uint8), DATA.target
TARGETS = np.eye(10)[LABELS]


def chain(rows: str) -> tuple[Network, np.ndarray]:
    """A network of every kind of step but those that `rows` rule out, and rows for it."""
    start, draw = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=start) / max(shape[1:], default=8) ** 0.5

    none = torch.zeros(0)
    conv = (Step("conv", relu=True, stride=2), numbers(6, 3, 4), numbers(6))
    signed = (Step("conv"), numbers(5, 6, 2), numbers(5))
    after = [(Step("sum"), none, none), (Step("dense"), numbers(4, 5), numbers(4))]
    if rows == "ids":
        steps = [(Step("embedding"), numbers(11, 3), none), conv, signed, *after]
        shape, x = (17,), draw.integers(0, 11, (3000, 17))
    elif rows == "sequence":
        steps, shape = [conv, signed, *after], (17, 3)
        x = draw.normal(0, 1, (3000, 17, 3))
    else:  # a convolution flattened into a dense layer, and a sum at the end of all
        steps, shape = [conv, (Step("dense", relu=True), numbers(7, 42), numbers(7))], (17, 3)
        steps += [(Step("dense"), numbers(4, 7), numbers(4))]
        x = draw.normal(0, 1, (3000, 17, 3))
    return Network(shape, *zip(*steps, strict=True)), x


def exact(fixed: FixedNetwork, row: np.ndarray) -> list[float]:
    """The logits of one row in fractions, step by step as `FixedNetwork` says it."""
    values = np.vectorize(Fraction)(fixed.input_type.quantize(row.reshape(fixed.shape)))
    for layer, weight, bias in zip(fixed.layers, fixed.weights, fixed.biases, strict=True):
        w = weight * (Fraction(2) ** -layer.weight.fraction)
        b = bias * (Fraction(2) ** -layer.bias.fraction)
        if layer.kind == "embedding":
            values = w[values.astype(int)]
            continue
        if layer.kind == "sum":
            values = values.sum(0)
            continue
        if layer.kind == "dense":
            sums = w @ values.reshape(-1) + b
        else:
            starts = range(0, len(values) - w.shape[2] + 1, layer.stride)
            windows = [values[at : at + w.shape[2]] for at in starts]
            sums = np.array([[(o.T * window).sum() for o in w] for window in windows]) + b
        step = Fraction(2) ** -layer.output.fraction
        sums = np.maximum(sums, 0) if layer.relu else sums
        codes = np.vectorize(lambda s, step=step: (s / step + Fraction(1, 2)).__floor__())(sums)
        values = np.clip(codes, layer.output.low, layer.output.high) * step
    return [float(value) for value in values]
