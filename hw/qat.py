"""Quantization-aware training: choose the types, train within them, round for good.

Training knows the rounding (straight-through gradients), so that few bits lose little, and makes
the smallest weights zero bit by bit, which is what a design without multipliers is cheapest with.
Types come from the ranges that the training rows show.
Not here: the exact result (fixed.py); a search for the best widths.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from trivet.hw.distill import OnEpoch, fit, ignore
from trivet.hw.errors import DesignError
from trivet.hw.features import COUNT_TYPE
from trivet.hw.fixed import EXACT_FLOAT64, Fixed, FixedNetwork, Layer
from trivet.hw.network import Network, apply

EXACT_FLOAT32 = 24  # bits: logits no wider than this are float32 without rounding
N = TypeVar("N", int, float)
ONE = torch.ones(())
FINEST = 4  # bits that a channel's scale may be finer than its layer's, or sums grow wide
BIAS_BITS = 8  # at least: a constant costs next to nothing on the chip, whatever its width
PRUNED_BY = 0.6  # share of the epochs in which the zeros grow; the rest trains what is left


@dataclass(frozen=True)
class StepTypes:
    """A step's types as chosen before training; without an output, it is as wide as the sum.

    `channel_scale` [out, 1, …] are powers of two: the weights of an output channel are `weight`
    divided by its own, so that small ones are not rounded to nothing beside large ones.
    """

    weight: Fixed | None = None
    bias: Fixed | None = None
    output: Fixed | None = None
    channel_scale: Tensor = ONE

    def fake_quantize(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and biases as the chip will hold them."""
        if self.weight:
            weight = self.weight.fake_quantize(weight * self.channel_scale) / self.channel_scale
        return weight, self.bias.fake_quantize(bias) if self.bias else bias

    @property
    def container(self) -> Fixed | None:
        """The type that holds the weights of all channels."""
        more = int(self.channel_scale.max().log2().item())
        return self.weight and Fixed(self.weight.width + more, self.weight.integer)


def quantize(
    network: Network,
    x: np.ndarray,
    targets: np.ndarray,
    weight_bits: int | Sequence[int],
    activation_bits: int | Sequence[int],
    epochs: int,
    seed: int,
    on_epoch: OnEpoch = ignore,
    input_type: Fixed = COUNT_TYPE,
    per_channel: bool = False,
    sparsity: float | Sequence[float] = 0.0,
) -> FixedNetwork:
    """Choose types from the ranges that x [n, *shape] shows, and train on within them.

    `targets` float [n, classes] are the ones the network learnt from; it is left as it is. Bits
    are one number, or one for each step with weights (an embedding gives on its weights, the last
    step its whole sum: their activation bits are not used). `input_type`: of n-gram counts, if
    nothing else is said. `per_channel`: each output channel's weights have a scale of their own.
    `sparsity`, 0 to 1, for all or for each as the bits: the share of a step's weights that end as
    zero, the smallest first. Raises DesignError when these do not fit the network.
    """
    tuned = copy.deepcopy(network)
    x = input_type.quantize(x.reshape(len(x), *network.shape)).astype(np.float32)
    bits = (
        _per_step(tuned, weight_bits, "weight_bits"),
        _per_step(tuned, activation_bits, "activation_bits"),
    )
    shares = _per_step(tuned, sparsity, "sparsity")
    pruning = max(1, round(PRUNED_BY * epochs))
    types = _types(tuned, x, input_type, *bits, shares, per_channel)
    masks = [torch.ones_like(weight) for weight in tuned.weights]

    def forward(values: Tensor) -> Tensor:
        chain = zip(tuned.steps, types, tuned.weights, masks, tuned.biases, strict=True)
        for step, kinds, weight, mask, bias in chain:
            values = apply(step, values, *kinds.fake_quantize(weight * mask, bias))
            values = kinds.output.fake_quantize(values) if kinds.output else values
        return values

    def after(epoch: int, loss: float) -> None:
        if epoch < pruning:
            _prune(tuned, masks, shares, (epoch + 1) / pruning)
        if epoch:
            on_epoch(epoch, loss)

    after(0, 0.0)
    fit(forward, tuned.parameters(), x, targets, epochs, seed, 2e-3, after)
    with torch.no_grad():
        for weight, mask in zip(tuned.weights, masks, strict=True):
            weight.mul_(mask)
    return _round(tuned, input_type, types)


@torch.no_grad()
def _prune(network: Network, masks: list[Tensor], sparsity: list[float], share: float) -> None:
    """Choose the weights that count from now on; `share` of the way to all zeros, fast at first.

    A weight that is left out keeps its value and may come back (Zhu and Gupta 2017).
    """
    for weight, mask, zeros in zip(network.weights, masks, sparsity, strict=True):
        count = round(zeros * (1 - (1 - share) ** 3) * weight.numel())
        mask.fill_(1).view(-1)[weight.abs().flatten().argsort()[:count]] = 0


def _per_step(network: Network, values: N | Sequence[N], parameter: str) -> list[N]:
    """One for each step; 0 for a sum, which has none."""
    weighted = [step.kind != "sum" for step in network.steps]
    each = list(values) if isinstance(values, Sequence) else [values] * sum(weighted)
    if len(each) != sum(weighted):
        raise DesignError(
            f"the network has {sum(weighted)} layers with weights; give one number for all, or one "
            "for each.",
            parameter=parameter,
            value=each,
        )
    return [each.pop(0) if has else 0 for has in weighted]


@torch.no_grad()
def _types(
    network: Network,
    x: np.ndarray,
    input_type: Fixed,
    weight_bits: list[int],
    activation_bits: list[int],
    sparsity: list[float],
    per_channel: bool,
) -> list[StepTypes]:
    """The types of each step. For the logits, `_round` makes the output as wide as the sum."""
    types: list[StepTypes] = []
    values, source = torch.from_numpy(x), input_type
    for at, step in enumerate(network.steps):
        w, b = network.weights[at], network.biases[at]
        values = apply(step, values, w, b)
        if step.kind == "sum":
            kinds = StepTypes()
            source = _sum_type(source, network.shapes[at][0])
        elif step.kind == "embedding":
            source = Fixed.for_range(w.abs().max().item(), weight_bits[at])
            kinds = StepTypes(source)
        else:
            # what stays will grow, for it must do the work of what goes
            room = 2 if sparsity[at] else 1
            weight = _best_type(room * _largest(w, sparsity[at]), weight_bits[at])
            kinds = StepTypes(weight, channel_scale=_channel_scale(w) if per_channel else ONE)
            bias = Fixed.for_range(b.abs().max().item(), max(weight_bits[at], BIAS_BITS))
            # a bias finer than the products is of no use
            finest = source.fraction + weight.fraction + int(kinds.channel_scale.max().log2())
            bias = Fixed(bias.width, max(bias.integer, bias.width - finest))
            source = _best_type(values, activation_bits[at], signed=not step.relu)
            last = at == len(network.steps) - 1
            kinds = replace(kinds, bias=bias, output=None if last else source)
        types.append(kinds)
    return types


def _best_type(values: Tensor, bits: int, signed: bool = True) -> Fixed:
    """The type that changes the values least on the whole; to be finer it may saturate a few."""
    largest = values.abs().max().item() if values.numel() else 0.0
    kinds = [Fixed.for_range(largest / 2**less, bits, signed) for less in range(4)]
    return min(kinds, key=lambda kind: (kind.fake_quantize(values) - values).square().sum().item())


def _largest(weight: Tensor, sparsity: float) -> Tensor:
    """The weights that will stay."""
    order = weight.abs().flatten().argsort()
    return weight.flatten()[order[round(sparsity * weight.numel()) :]]


def _channel_scale(weight: Tensor) -> Tensor:
    """How much finer than the layer's each channel's scale may be: a power of two, at most 16."""
    largest = weight.flatten(1).abs().amax(1).clamp(min=1e-30)
    exponent = torch.frexp(largest)[1]
    more = (exponent.max() - exponent).clamp(max=FINEST)
    return (2.0**more).reshape(-1, *[1] * (weight.dim() - 1))


def _round(network: Network, input_type: Fixed, types: list[StepTypes]) -> FixedNetwork:
    """Round the weights for good and size the sums, so that nothing in between can be lost."""
    layers, weights, biases = [], [], []
    source = input_type
    for at, (step, kinds) in enumerate(zip(network.steps, types, strict=True)):
        values = kinds.fake_quantize(network.weights[at].double(), network.biases[at].double())
        container, none = kinds.container, np.zeros(0)
        w, b = (
            np.ldexp(part.detach().numpy(), kind.fraction) if kind else none
            for kind, part in zip((container, kinds.bias), values, strict=True)
        )
        if container and kinds.bias:
            accum = _accum_type(source, container, kinds.bias, w.reshape(len(w), -1), b)
            output = kinds.output or Fixed(min(accum.width, EXACT_FLOAT32), accum.integer)
        else:
            accum = output = container or _sum_type(source, network.shapes[at][0])
        if accum.width > EXACT_FLOAT64:
            raise DesignError(
                f"Layer {at} would sum in {accum.width} bits, and {EXACT_FLOAT64} is the most that "
                "can be checked: lower weight_bits or activation_bits."
            )
        parts = (container or accum, kinds.bias or accum, accum, output)
        layers.append(Layer(step.kind, *parts, step.relu, step.stride))
        weights.append(w.astype(np.int32))
        biases.append(b.astype(np.int32))
        source = output
    return FixedNetwork(input_type, network.shape, layers, weights, biases)


def _accum_type(source: Fixed, weight: Fixed, bias: Fixed, w: np.ndarray, b: np.ndarray) -> Fixed:
    """Holds the largest sum that any input and any order of adding can reach; w [out, in] codes."""
    fraction = source.fraction + weight.fraction  # of a product; no bias is finer
    products = np.ldexp(np.abs(w).sum(1) * max(source.high, -source.low), -fraction)
    integer = math.frexp((products + np.ldexp(np.abs(b), -bias.fraction)).max())[1] + 1
    return Fixed(integer + fraction, integer)


def _sum_type(source: Fixed, positions: int) -> Fixed:
    """Holds the sum of that many values."""
    more = (positions - 1).bit_length()
    return Fixed(source.width + more, source.integer + more, source.signed)
