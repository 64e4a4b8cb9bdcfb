"""The student in fixed point: every number as an integer times a power of two, as the chip has it.

Training knows the rounding (straight-through gradients), so that few bits lose little. The result
is computed here exactly: sums are wide enough to lose nothing, and only a layer's output is
rounded (half up) and saturated, with the modes that HLS calls AP_RND and AP_SAT.
Not here: the chip's project (hls.py); a search for the best widths.
"""

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from .network import Kind, Network, apply, shapes
from .student import CAP, fit

EXACT_FLOAT32 = 24  # bits: logits no wider than this are float32 without rounding
ROWS = 4096  # computed at once: a convolution in float64 takes much memory


@dataclass(frozen=True)
class Fixed:
    """A fixed-point type as in HLS: `width` bits, of which `integer` stand before the point."""

    width: int
    integer: int
    signed: bool = True

    @property
    def fraction(self) -> int:
        return self.width - self.integer

    @property
    def low(self) -> int:
        """The smallest integer code."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer code."""
        return (1 << (self.width - self.signed)) - 1

    def __str__(self) -> str:
        return f"ap_{'' if self.signed else 'u'}fixed<{self.width},{self.integer}>"

    @property
    def hls(self) -> str:
        """With the modes: round half up, saturate."""
        return f"{str(self)[:-1]},AP_RND,AP_SAT>"

    @classmethod
    def holding(cls, largest: float, width: int, signed: bool = True) -> "Fixed":
        """The finest type of this width whose range reaches `largest` (one step may saturate)."""
        reach = math.frexp(largest)[1] if largest > 0 else 0
        return cls(width, reach + signed, signed)

    def round(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """float64 values to integer codes (as float64), and how many of them saturated."""
        codes = np.floor(np.ldexp(x, self.fraction) + 0.5)
        outside = (codes < self.low) | (codes > self.high)
        return np.clip(codes, self.low, self.high), int(outside.sum())

    def hold(self, x: np.ndarray) -> np.ndarray:
        """The float64 values that this type has for x."""
        return np.ldexp(self.round(x.astype(np.float64))[0], -self.fraction)

    def imitate(self, x: Tensor) -> Tensor:
        """x as this type would hold it; the gradient passes as if only the range were limited."""
        step = 2.0**-self.fraction
        inside = x.clamp(self.low * step, self.high * step)
        rounded = (torch.floor(x / step + 0.5) * step).clamp(self.low * step, self.high * step)
        return inside + (rounded - inside).detach()


COUNTS = Fixed.holding(CAP, CAP.bit_length(), signed=False)


@dataclass(frozen=True)
class Layer:
    """One step's types: what it stores, what it sums in, what it gives on.

    A type holds all codes of its part; it may be wider than any one of them needs. embedding and
    sum round nothing: `output` holds what they give on, and stands in for the parts they lack.
    """

    kind: Kind
    weight: Fixed
    bias: Fixed
    total: Fixed
    output: Fixed
    relu: bool
    stride: int = 1


class FixedStudent:
    """A network in fixed point. `weights` and `biases` are int32 codes, shaped as in `Step`.

    `given` is the type of the inputs, `shape` of one row of them; for ids it is an unsigned
    integer. Each layer is: the exact sum, bias included; ReLU if it has one; rounded half up and
    saturated to `output`.
    """

    def __init__(
        self,
        given: Fixed,
        shape: Sequence[int],
        layers: Sequence[Layer],
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
    ) -> None:
        self.given, self.shape, self.layers = given, tuple(shape), list(layers)
        self.weights, self.biases = list(weights), list(biases)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of one row: as given, and after each layer."""
        return shapes(self.shape, self.layers, self.weights)

    def numbers(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """The values, float64, of a layer's weights and biases."""
        layer = self.layers[at]
        return (
            np.ldexp(self.weights[at].astype(np.float64), -layer.weight.fraction),
            np.ldexp(self.biases[at].astype(np.float64), -layer.bias.fraction),
        )

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Numbers or ids [n, …], as many a row as `shape` has, to float32 [n, classes]: exactly
        the chip's. Numbers are rounded and saturated to `given`; an unknown id is an IndexError.
        """
        parts = [x[at : at + ROWS] for at in range(0, max(len(x), 1), ROWS)]
        return np.concatenate([self._run(part)[0] for part in parts]).astype(np.float32)

    def table(self, x: np.ndarray) -> list[dict[str, Any]]:
        """Each layer's types, what its sums reached on x before rounding, how many saturated."""
        return self._run(x)[1]

    def _run(self, x: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        values = self.given.hold(x.reshape(len(x), *self.shape))
        table = []
        for at, layer in enumerate(self.layers):
            # float64 holds every sum: `total` has at most 53 bits (see `_fix`)
            numbers = (torch.from_numpy(part) for part in self.numbers(at))
            sums = apply(layer, torch.from_numpy(values), *numbers).numpy()
            codes, saturated = layer.output.round(sums)
            values = np.ldexp(codes, -layer.output.fraction)
            span = [float(sums.min()), float(sums.max())] if sums.size else [0.0, 0.0]
            types = {"weight": layer.weight, "bias": layer.bias, "output": layer.output}
            table.append(
                {"layer": f"{layer.kind}_{at}"}
                | {part: str(kind) for part, kind in types.items()}
                | {"range": span, "saturated": saturated, "values": sums.size}
            )
        return values, table

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"{at}.weight": weight for at, weight in enumerate(self.weights)}
        named |= {f"{at}.bias": bias for at, bias in enumerate(self.biases)}
        save_file(named, folder / "fixed.safetensors")
        chain = {"given": asdict(self.given), "shape": self.shape}
        chain |= {"layers": [asdict(layer) for layer in self.layers]}
        (folder / "fixed.json").write_text(json.dumps(chain, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "FixedStudent":
        chain = json.loads((folder / "fixed.json").read_text())
        layers = []
        for layer in chain["layers"]:
            layer |= {part: Fixed(**kind) for part, kind in layer.items() if isinstance(kind, dict)}
            layers.append(Layer(**layer))
        named = load_file(folder / "fixed.safetensors")
        weights, biases = (
            [named[f"{at}.{part}"] for at in range(len(layers))] for part in ("weight", "bias")
        )
        return cls(Fixed(**chain["given"]), chain["shape"], layers, weights, biases)


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
