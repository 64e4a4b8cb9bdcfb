"""From a float network to fixed point: choose the types, train within them, round for good.

Training knows the rounding (straight-through gradients), so that few bits lose little. Types come
from the ranges that the training rows show.
Not here: the exact result (fixed.py); a search for the best widths.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .fixed import Fixed, FixedStudent, Layer
from .network import Network, apply
from .student import CAP, fit

EXACT_FLOAT32 = 24  # bits: logits no wider than this are float32 without rounding
COUNTS = Fixed.holding(CAP, CAP.bit_length(), signed=False)


@dataclass(frozen=True)
class Types:
    """A step's types as chosen before training; without an output, it is as wide as the sum."""

    weight: Fixed | None
    bias: Fixed | None
    output: Fixed | None


def quantise(
    network: Network,
    x: np.ndarray,
    targets: np.ndarray,
    weight_bits: int,
    activation_bits: int,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    given: Fixed = COUNTS,
) -> FixedStudent:
    """Choose types from the ranges that x [n, *shape] shows, and train on within them.

    `targets` float [n, classes] are the ones the network learnt from; it is left as it is. `given`
    is the type of the inputs: of n-gram counts, if nothing else is said.
    """
    tuned = copy.deepcopy(network)
    x = given.hold(x.reshape(len(x), *network.shape)).astype(np.float32)
    types = _types(tuned, x, given, weight_bits, activation_bits)

    def imitate(values: Tensor) -> Tensor:
        chain = zip(tuned.steps, types, tuned.weights, tuned.biases, strict=True)
        for step, kinds, weight, bias in chain:
            weight = kinds.weight.imitate(weight) if kinds.weight else weight
            bias = kinds.bias.imitate(bias) if kinds.bias else bias
            values = apply(step, values, weight, bias)
            values = kinds.output.imitate(values) if kinds.output else values
        return values

    fit(imitate, tuned.parameters(), x, targets, epochs, seed, 1e-3, on_epoch)
    return _fix(tuned, given, types)


@torch.no_grad()
def _types(
    network: Network, x: np.ndarray, given: Fixed, weight_bits: int, activation_bits: int
) -> list[Types]:
    """The types of each step. A step's output is as wide as its sum for the logits: see `_fix`."""
    types: list[Types] = []
    values, source = torch.from_numpy(x), given
    last = len(network.steps) - 1
    for at, step in enumerate(network.steps):
        w, b = network.weights[at], network.biases[at]
        values = apply(step, values, w, b)
        weight = bias = output = None
        if step.kind == "sum":
            source = _summed(source, network.shapes[at][0])
        elif step.kind == "embedding":
            source = weight = Fixed.holding(w.abs().max().item(), weight_bits)
        else:
            weight = Fixed.holding(w.abs().max().item(), weight_bits)
            finest = source.fraction + weight.fraction  # a bias finer than the products is no use
            bias = Fixed.holding(b.abs().max().item(), weight_bits)
            bias = Fixed(weight_bits, max(bias.integer, weight_bits - finest))
            if at < last:
                largest = values.abs().max().item()
                output = source = Fixed.holding(largest, activation_bits, signed=not step.relu)
        types.append(Types(weight, bias, output))
    return types


def _fix(network: Network, given: Fixed, types: list[Types]) -> FixedStudent:
    """Round the weights for good and size the sums, so that nothing in between can be lost."""
    layers, weights, biases = [], [], []
    source = given
    for at, (step, kinds) in enumerate(zip(network.steps, types, strict=True)):
        w, b = (
            kind.round(part.detach().double().numpy())[0] if kind else np.zeros(0)
            for kind, part in (
                (kinds.weight, network.weights[at]),
                (kinds.bias, network.biases[at]),
            )
        )
        if kinds.weight and kinds.bias:
            total = _total(source, kinds.weight, kinds.bias, w.reshape(len(w), -1), b)
            output = kinds.output or Fixed(min(total.width, EXACT_FLOAT32), total.integer)
        else:
            total = output = kinds.weight or _summed(source, network.shapes[at][0])
        if total.width > 53:
            raise ValueError(f"a sum of {total.width} bits is more than float64 holds: use fewer")
        parts = (kinds.weight or total, kinds.bias or total, total, output)
        layers.append(Layer(step.kind, *parts, step.relu, step.stride))
        weights.append(w.astype(np.int32))
        biases.append(b.astype(np.int32))
        source = output
    return FixedStudent(given, network.shape, layers, weights, biases)


def _total(source: Fixed, weight: Fixed, bias: Fixed, w: np.ndarray, b: np.ndarray) -> Fixed:
    """Holds the largest sum that any input and any order of adding can reach; w [out, in] codes."""
    fraction = source.fraction + weight.fraction  # of a product; no bias is finer
    products = np.ldexp(np.abs(w).sum(1) * max(source.high, -source.low), -fraction)
    integer = math.frexp((products + np.ldexp(np.abs(b), -bias.fraction)).max())[1] + 1
    return Fixed(integer + fraction, integer)


def _summed(source: Fixed, positions: int) -> Fixed:
    """Holds the sum of that many values."""
    more = (positions - 1).bit_length()
    return Fixed(source.width + more, source.integer + more, source.signed)
