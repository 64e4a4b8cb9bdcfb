"""A network in fixed point: every number an integer times a power of two, as the chip has it.

The result is computed here exactly: sums are wide enough to lose nothing, and only a layer's output
is rounded (half up) and saturated, with the modes that HLS calls AP_RND and AP_SAT. All other ways
to run the network must give these very logits.
Not here: how the types and weights are found (qat.py), the comparing (vectors.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import AliasChoices, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from trivet.hw.record import Record
from trivet.hw.steps import Kind, shapes

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4096  # computed at once: a convolution in float64 takes much memory
EXACT_FLOAT64 = 53  # bits: a sum no wider than this is a float64 without rounding


@dataclass(frozen=True)
class Fixed:
    """A fixed-point type as in HLS: `width` bits, of which `integer` stand before the point."""

    __pydantic_config__ = ConfigDict(extra="forbid")

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
    def for_range(cls, largest: float, width: int, signed: bool = True) -> "Fixed":
        """The finest type of this width whose range reaches `largest` (one step may saturate)."""
        exponent = math.frexp(largest)[1] if largest > 0 else 0
        return cls(width, exponent + signed, signed)

    def round(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """float64 values to integer codes (as float64), and how many of them saturated."""
        codes = np.floor(np.ldexp(x, self.fraction) + 0.5)
        outside = (codes < self.low) | (codes > self.high)
        return np.clip(codes, self.low, self.high), int(outside.sum())

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """The float64 values that this type has for x."""
        return np.ldexp(self.round(x.astype(np.float64))[0], -self.fraction)

    def fake_quantize(self, x: "Tensor") -> "Tensor":
        """x as this type would hold it; the gradient passes as if only the range were limited."""
        step = 2.0**-self.fraction
        inside = x.clamp(self.low * step, self.high * step)
        rounded = ((x / step + 0.5).floor() * step).clamp(self.low * step, self.high * step)
        return inside + (rounded - inside).detach()


@dataclass(frozen=True)
class Layer:
    """One step's types: what it stores, what it sums in, what it gives on.

    A type holds all codes of its part; it may be wider than any one of them needs. embedding and
    sum round nothing: `output` holds what they give on, and stands in for the parts they lack.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Kind
    weight: Fixed
    bias: Fixed
    accum: Annotated[Fixed, Field(validation_alias=AliasChoices("accum", "total"))]
    output: Fixed
    relu: bool
    stride: int = 1


@dataclass(frozen=True)
class LayerRange:
    """A layer's types as words ("" for one it lacks), the least and greatest value on some rows
    before rounding, and how many of the `values` saturated. `layer` is "input" for the inputs.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    layer: str
    weight: str
    bias: str
    output: str
    range: tuple[float, float]
    saturated: int
    values: int


PARTS: dict[Kind, tuple[str, ...]] = {
    "dense": ("weight", "bias", "output"),
    "conv": ("weight", "bias", "output"),
    "embedding": ("weight", "output"),
    "sum": ("output",),
}


class FixedRecord(Record):
    """fixed.json: the types; the codes lie beside it in fixed.safetensors."""

    FILE: ClassVar[str] = "fixed.json"
    input_type: Fixed = Field(validation_alias=AliasChoices("input_type", "given"))
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]


class FixedNetwork:
    """A network in fixed point. `weights` and `biases` are int32 codes, shaped as in `Step`.

    `input_type` is the type of the inputs, `shape` that of one row of them; for ids it is an
    unsigned integer. Each layer is: the exact sum, bias included; ReLU if it has one; rounded half
    up and saturated to `output`.
    """

    def __init__(
        self,
        input_type: Fixed,
        shape: Sequence[int],
        layers: Sequence[Layer],
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
    ) -> None:
        self.input_type, self.shape, self.layers = input_type, tuple(shape), list(layers)
        self.weights, self.biases = list(weights), list(biases)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of one row: at the input, and after each layer."""
        return shapes(self.shape, self.layers, self.weights)

    def parameters(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """The values, float64, of a layer's weights and biases."""
        layer = self.layers[at]
        return (
            np.ldexp(self.weights[at].astype(np.float64), -layer.weight.fraction),
            np.ldexp(self.biases[at].astype(np.float64), -layer.bias.fraction),
        )

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Numbers or ids [n, …], as many a row as `shape` has, to float32 [n, classes]: exactly
        the chip's. Numbers are rounded and saturated to `input_type`; an unknown id is an
        IndexError.
        """
        parts = [x[at : at + ROWS] for at in range(0, max(len(x), 1), ROWS)]
        return np.concatenate([self._run(part)[0] for part in parts]).astype(np.float32)

    def ranges(self, x: np.ndarray) -> list[LayerRange]:
        """What the rows x reach and saturate: of the inputs, then of each layer."""
        return self._run(x)[1]

    def _run(self, x: np.ndarray) -> tuple[np.ndarray, list[LayerRange]]:
        import torch  # takes seconds, and whoever asks a compiled form has no need of it

        from trivet.hw.network import apply

        sums = x.reshape(len(x), *self.shape).astype(np.float64)
        codes, saturated = self.input_type.round(sums)
        values = np.ldexp(codes, -self.input_type.fraction)
        ranges = [_range("input", {"output": self.input_type}, sums, saturated)]
        for at, layer in enumerate(self.layers):
            # float64 holds every sum: `accum` has at most 53 bits
            parameters = (torch.from_numpy(part) for part in self.parameters(at))
            sums = apply(layer, torch.from_numpy(values), *parameters).numpy()
            codes, saturated = layer.output.round(sums)
            values = np.ldexp(codes, -layer.output.fraction)
            types = {"weight": layer.weight, "bias": layer.bias, "output": layer.output}
            types = {part: types[part] for part in PARTS[layer.kind]}
            ranges.append(_range(f"{layer.kind}_{at}", types, sums, saturated))
        return values, ranges

    def save(self, folder: Path) -> None:
        """Write fixed.json and fixed.safetensors to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        codes = {f"{at}.weight": weight for at, weight in enumerate(self.weights)}
        codes |= {f"{at}.bias": bias for at, bias in enumerate(self.biases)}
        save_file(codes, folder / "fixed.safetensors")
        FixedRecord(input_type=self.input_type, shape=self.shape, layers=tuple(self.layers)).write(
            folder
        )

    @classmethod
    def load(cls, folder: Path) -> "FixedNetwork":
        """Raises DesignError when fixed.json is missing or not understood."""
        record = FixedRecord.read(folder)
        codes = load_file(folder / "fixed.safetensors")
        weights, biases = (
            [codes[f"{at}.{part}"] for at in range(len(record.layers))]
            for part in ("weight", "bias")
        )
        return cls(record.input_type, record.shape, record.layers, weights, biases)


def _range(name: str, types: dict[str, Fixed], sums: np.ndarray, saturated: int) -> LayerRange:
    span = (float(sums.min()), float(sums.max())) if sums.size else (0.0, 0.0)
    words = {part: str(types.get(part, "")) for part in ("weight", "bias", "output")}
    return LayerRange(layer=name, **words, range=span, saturated=saturated, values=sums.size)
