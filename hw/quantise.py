"""From a float network to fixed point: choose the types, train within them, round for good.

Training knows the rounding (straight-through gradients), so that few bits lose little. Types come
from the ranges that the training rows show.
Not here: the exact result (fixed.py); a search for the best widths.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .. import UserError
from .fixed import Fixed, FixedStudent, Layer
from .network import Network, apply
from .student import CAP, fit

EXACT_FLOAT32 = 24  # bits: logits no wider than this are float32 without rounding
ONE = torch.ones(())
FINEST = 4  # bits that a channel's scale may be finer than its layer's, or sums grow wide
COUNTS = Fixed.holding(CAP, CAP.bit_length(), signed=False)


@dataclass(frozen=True)
class Types:
    """A step's types as chosen before training; without an output, it is as wide as the sum.

    `finer` [out, 1, …] are powers of two: the weights of an output channel are `weight` divided
    by its own, so that small ones are not rounded to nothing beside large ones.
    """

    weight: Fixed | None = None
    bias: Fixed | None = None
    output: Fixed | None = None
    finer: Tensor = ONE

    def imitate(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and biases as the chip will hold them."""
        if self.weight:
            weight = self.weight.imitate(weight * self.finer) / self.finer
        return weight, self.bias.imitate(bias) if self.bias else bias

    @property
    def container(self) -> Fixed | None:
        """The type that holds the weights of all channels."""
        more = int(self.finer.max().log2().item())
        return self.weight and Fixed(self.weight.width + more, self.weight.integer)


def quantise(
    network: Network,
    x: np.ndarray,
    targets: np.ndarray,
    weight_bits: int | Sequence[int],
    activation_bits: int | Sequence[int],
    epochs: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    given: Fixed = COUNTS,
    per_channel: bool = False,
) -> FixedStudent:
    """Choose types from the ranges that x [n, *shape] shows, and train on within them.

    `targets` float [n, classes] are the ones the network learnt from; it is left as it is. Bits
    are one number, or one for each step with weights (an embedding gives on its weights, the last
    step its whole sum: their activation bits are not used). `given` is the type of the inputs: of
    n-gram counts, if nothing else is said. `per_channel`: each output channel's weights have a
    scale of their own. UserError when the bits do not fit the network.
    """
    tuned = copy.deepcopy(network)
    x = given.hold(x.reshape(len(x), *network.shape)).astype(np.float32)
    bits = (
        _bits(tuned, weight_bits, "weight_bits"),
        _bits(tuned, activation_bits, "activation_bits"),
    )
    types = _types(tuned, x, given, *bits, per_channel)

    def imitate(values: Tensor) -> Tensor:
        chain = zip(tuned.steps, types, tuned.weights, tuned.biases, strict=True)
        for step, kinds, weight, bias in chain:
            values = apply(step, values, *kinds.imitate(weight, bias))
            values = kinds.output.imitate(values) if kinds.output else values
        return values

    fit(imitate, tuned.parameters(), x, targets, epochs, seed, 1e-3, on_epoch)
    return _fix(tuned, given, types)


def _bits(network: Network, bits: int | Sequence[int], key: str) -> list[int]:
    """One for each step; 0 for a sum, which has none."""
    weighted = [step.kind != "sum" for step in network.steps]
    each = [bits] * sum(weighted) if isinstance(bits, int) else list(bits)
    if len(each) != sum(weighted):
        raise UserError(
            f"fpga.{key} = {each}: the network has {sum(weighted)} layers with weights; give one "
            "number for all, or one for each."
        )
    return [each.pop(0) if has else 0 for has in weighted]


@torch.no_grad()
def _types(
    network: Network,
    x: np.ndarray,
    given: Fixed,
    weight_bits: list[int],
    activation_bits: list[int],
    per_channel: bool,
) -> list[Types]:
    """The types of each step. A step's output is as wide as its sum for the logits: see `_fix`."""
    types: list[Types] = []
    values, source = torch.from_numpy(x), given
    for at, step in enumerate(network.steps):
        w, b = network.weights[at], network.biases[at]
        values = apply(step, values, w, b)
        if step.kind == "sum":
            kinds = Types()
            source = _summed(source, network.shapes[at][0])
        elif step.kind == "embedding":
            source = Fixed.holding(w.abs().max().item(), weight_bits[at])
            kinds = Types(source)
        else:
            weight = Fixed.holding(w.abs().max().item(), weight_bits[at])
            kinds = Types(weight, finer=_finer(w) if per_channel else ONE)
            bias = Fixed.holding(b.abs().max().item(), weight_bits[at])
            # a bias finer than the products is of no use
            finest = source.fraction + weight.fraction + int(kinds.finer.max().log2())
            bias = Fixed(bias.width, max(bias.integer, bias.width - finest))
            source = Fixed.holding(
                values.abs().max().item(), activation_bits[at], signed=not step.relu
            )
            last = at == len(network.steps) - 1
            kinds = replace(kinds, bias=bias, output=None if last else source)
        types.append(kinds)
    return types


def _finer(weight: Tensor) -> Tensor:
    """How much finer than the layer's each channel's scale may be: a power of two, at most 16."""
    largest = weight.flatten(1).abs().amax(1).clamp(min=1e-30)
    reach = torch.frexp(largest)[1]
    more = (reach.max() - reach).clamp(max=FINEST)
    return (2.0**more).reshape(-1, *[1] * (weight.dim() - 1))


def _fix(network: Network, given: Fixed, types: list[Types]) -> FixedStudent:
    """Round the weights for good and size the sums, so that nothing in between can be lost."""
    layers, weights, biases = [], [], []
    source = given
    for at, (step, kinds) in enumerate(zip(network.steps, types, strict=True)):
        held = kinds.imitate(network.weights[at].double(), network.biases[at].double())
        container, none = kinds.container, np.zeros(0)
        w, b = (
            np.ldexp(part.detach().numpy(), kind.fraction) if kind else none
            for kind, part in zip((container, kinds.bias), held, strict=True)
        )
        if container and kinds.bias:
            total = _total(source, container, kinds.bias, w.reshape(len(w), -1), b)
            output = kinds.output or Fixed(min(total.width, EXACT_FLOAT32), total.integer)
        else:
            total = output = container or _summed(source, network.shapes[at][0])
        if total.width > 53:
            raise UserError(
                f"Layer {at} would sum in {total.width} bits, and 53 is the most that can be "
                "checked: lower fpga.weight_bits or fpga.activation_bits."
            )
        parts = (container or total, kinds.bias or total, total, output)
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
