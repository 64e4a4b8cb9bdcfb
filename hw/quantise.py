"""The student in fixed point: every number as an integer times a power of two, as the chip has it.

Training knows the rounding (straight-through gradients), so that few bits lose little. The result
is computed here exactly: sums are wide enough to lose nothing, and only a layer's output is
rounded (half up) and saturated, with the modes that HLS calls AP_RND and AP_SAT.
Not here: the chip's project (hls.py); a search for the best widths.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from .student import CAP, Student, fit

EXACT_FLOAT32 = 24  # bits: logits no wider than this are float32 without rounding


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

    def imitate(self, x: Tensor) -> Tensor:
        """x as this type would hold it; the gradient passes as if only the range were limited."""
        step = 2.0**-self.fraction
        inside = x.clamp(self.low * step, self.high * step)
        rounded = (torch.floor(x / step + 0.5) * step).clamp(self.low * step, self.high * step)
        return inside + (rounded - inside).detach()


@dataclass(frozen=True)
class Layer:
    """The types of one linear layer: what it stores, what it sums in, what it gives on."""

    weight: Fixed
    bias: Fixed
    total: Fixed
    output: Fixed


class FixedStudent:
    """A student in fixed point. `weights` int32 [out, in] and `biases` int32 [out] are codes."""

    def __init__(
        self, given: Fixed, layers: list[Layer], weights: list[np.ndarray], biases: list[np.ndarray]
    ) -> None:
        self.given, self.layers, self.weights, self.biases = given, layers, weights, biases

    @property
    def sizes(self) -> list[int]:
        return [self.weights[0].shape[1], *(len(bias) for bias in self.biases)]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """uint8 [n, bins] to float32 [n, classes], exactly the chip's. Counts end at CAP."""
        return self._run(x)[0].astype(np.float32)

    def table(self, x: np.ndarray) -> list[dict[str, Any]]:
        """Each layer's types, what its sums reached on x before rounding, how many saturated."""
        return self._run(x)[1]

    def _run(self, x: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        values = np.ldexp(self.given.round(x.astype(np.float64))[0], -self.given.fraction)
        table = []
        for at, layer in enumerate(self.layers):
            # float64 holds every sum: `total` has at most 53 bits (see `_fix`)
            sums = values @ np.ldexp(self.weights[at].T.astype(np.float64), -layer.weight.fraction)
            sums += np.ldexp(self.biases[at].astype(np.float64), -layer.bias.fraction)
            if at < len(self.layers) - 1:
                sums = np.maximum(sums, 0)
            codes, saturated = layer.output.round(sums)
            values = np.ldexp(codes, -layer.output.fraction)
            span = [float(sums.min()), float(sums.max())] if sums.size else [0.0, 0.0]
            types = {"weight": layer.weight, "bias": layer.bias, "output": layer.output}
            table.append(
                {"layer": f"dense_{at}"}
                | {part: str(kind) for part, kind in types.items()}
                | {"range": span, "saturated": saturated, "values": sums.size}
            )
        return values, table

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"{at}.weight": weight for at, weight in enumerate(self.weights)}
        named |= {f"{at}.bias": bias for at, bias in enumerate(self.biases)}
        save_file(named, folder / "fixed.safetensors")
        types = {"given": asdict(self.given), "layers": [asdict(layer) for layer in self.layers]}
        (folder / "fixed.json").write_text(json.dumps(types, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "FixedStudent":
        types = json.loads((folder / "fixed.json").read_text())
        layers = [Layer(**{k: Fixed(**v) for k, v in layer.items()}) for layer in types["layers"]]
        named = load_file(folder / "fixed.safetensors")
        weights, biases = (
            [named[f"{at}.{part}"] for at in range(len(layers))] for part in ("weight", "bias")
        )
        return cls(Fixed(**types["given"]), layers, weights, biases)


def quantise(
    student: Student,
    x: np.ndarray,
    targets: np.ndarray,
    weight_bits: int,
    activation_bits: int,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> FixedStudent:
    """Choose types from the ranges that x, uint8 [n, bins], shows, and train on within them.

    `targets` float [n, classes] are the ones the student learnt from. The student is left as it is.
    """
    given = Fixed.holding(CAP, CAP.bit_length(), signed=False)
    tuned = Student(student.sizes[0], student.sizes[1:-1], student.sizes[-1])
    tuned.load_state_dict(student.state_dict())
    types = _types(tuned, x, given, weight_bits, activation_bits)

    def imitate(counts: Tensor) -> Tensor:
        values = counts
        for linear, (weight, bias, output) in zip(tuned.layers, types, strict=True):
            values = torch.nn.functional.linear(
                values, weight.imitate(linear.weight), bias.imitate(linear.bias)
            )
            if output:
                values = output.imitate(torch.relu(values))
        return values

    fit(imitate, tuned.parameters(), x, targets, epochs, seed, 1e-3, on_epoch)
    return _fix(tuned, x, given, types)


@torch.no_grad()
def _types(
    student: Student, x: np.ndarray, given: Fixed, weight_bits: int, activation_bits: int
) -> list[tuple[Fixed, Fixed, Fixed | None]]:
    """Weight, bias and output type of each layer; no output type for the logits: see `_fix`."""
    types: list[tuple[Fixed, Fixed, Fixed | None]] = []
    values, source = torch.from_numpy(x).float(), given
    for linear in student.layers:
        weight = Fixed.holding(linear.weight.abs().max().item(), weight_bits)
        finest = source.fraction + weight.fraction  # a bias finer than the products buys nothing
        bias = Fixed.holding(linear.bias.abs().max().item(), weight_bits)
        bias = Fixed(weight_bits, max(bias.integer, weight_bits - finest))
        values = torch.relu(linear(values))
        output = Fixed.holding(values.max().item(), activation_bits, signed=False)
        types.append((weight, bias, output))
        source = output
    return [*types[:-1], (*types[-1][:2], None)]


def _fix(
    student: Student, x: np.ndarray, given: Fixed, types: list[tuple[Fixed, Fixed, Fixed | None]]
) -> FixedStudent:
    """Round the weights for good and size the sums, so that nothing in between can be lost."""
    layers, weights, biases = [], [], []
    source = given
    for linear, (weight, bias, output) in zip(student.layers, types, strict=True):
        w = weight.round(linear.weight.detach().double().numpy())[0]
        b = bias.round(linear.bias.detach().double().numpy())[0]
        fraction = source.fraction + weight.fraction  # of a product; no bias is finer
        # the largest sum that any input and any order of adding can reach
        products = np.ldexp(np.abs(w).sum(1) * source.high, -source.fraction - weight.fraction)
        reach = (products + np.ldexp(np.abs(b), -bias.fraction)).max()
        integer = math.frexp(reach)[1] + 1
        total = Fixed(integer + fraction, integer)
        if total.width > 53:
            raise ValueError(f"a sum of {total.width} bits is more than float64 holds: use fewer")
        output = output or Fixed(min(total.width, EXACT_FLOAT32), total.integer)
        layers.append(Layer(weight, bias, total, output))
        weights.append(w.astype(np.int32))
        biases.append(b.astype(np.int32))
        source = output
    return FixedStudent(given, layers, weights, biases)
