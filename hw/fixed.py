"""A network in fixed point: every number an integer times a power of two, as the chip has it.

The result is computed here exactly: sums are wide enough to lose nothing, and only a layer's output
is rounded (half up) and saturated, with the modes that HLS calls AP_RND and AP_SAT. All other ways
to run the network must give these very logits.
Not here: how the types and weights are found (quantise.py).
"""

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

from .network import Kind, apply, shapes

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


PARTS: dict[Kind, tuple[str, ...]] = {
    "dense": ("weight", "bias", "output"),
    "conv": ("weight", "bias", "output"),
    "embedding": ("weight", "output"),
    "sum": ("output",),
}


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
        """Types, what was reached on x before rounding, how many values saturated: a row for the
        inputs, then one a layer.
        """
        return self._run(x)[1]

    def _run(self, x: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        sums = x.reshape(len(x), *self.shape).astype(np.float64)
        codes, saturated = self.given.round(sums)
        values = np.ldexp(codes, -self.given.fraction)
        table = [_row("input", {"output": self.given}, sums, saturated)]
        for at, layer in enumerate(self.layers):
            # float64 holds every sum: `total` has at most 53 bits
            numbers = (torch.from_numpy(part) for part in self.numbers(at))
            sums = apply(layer, torch.from_numpy(values), *numbers).numpy()
            codes, saturated = layer.output.round(sums)
            values = np.ldexp(codes, -layer.output.fraction)
            types = {"weight": layer.weight, "bias": layer.bias, "output": layer.output}
            has = {part: types[part] for part in PARTS[layer.kind]}
            table.append(_row(f"{layer.kind}_{at}", has, sums, saturated))
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


def _row(name: str, types: dict[str, Fixed], sums: np.ndarray, saturated: int) -> dict[str, Any]:
    span = [float(sums.min()), float(sums.max())] if sums.size else [0.0, 0.0]
    words = {part: str(types.get(part, "")) for part in ("weight", "bias", "output")}
    return {"layer": name, **words, "range": span, "saturated": saturated, "values": sums.size}


def random_rows(fixed: FixedStudent, n: int, seed: int) -> np.ndarray:
    """n rows that the chip may be fed, float32 [n, *shape]: edges first, then sparse to dense.

    Edges: all zero; all at the largest, at the smallest value; each input alone at either (fewer
    when n is small). Ids stay among the tokens, numbers within their type.
    """
    draw = np.random.default_rng(seed)
    size = math.prod(fixed.shape)
    ids = fixed.layers[0].kind == "embedding"
    low, high = (0, len(fixed.weights[0]) - 1) if ids else (fixed.given.low, fixed.given.high)
    ends = [high, low] if low else [high]
    alone = np.eye(size, dtype=np.int32)
    edges = np.vstack(
        [0 * alone[:1], *(0 * alone[:1] + end for end in ends), *(alone * end for end in ends)]
    )[:n]
    codes = draw.integers(low, high, (n - len(edges), size), np.int32, endpoint=True)
    codes *= draw.random(codes.shape, np.float32) < draw.random((len(codes), 1), np.float32)
    rows = np.vstack([edges, codes]).astype(np.float32) * np.float32(2.0**-fixed.given.fraction)
    return rows.reshape(n, *fixed.shape)


def compare(
    fixed: FixedStudent,
    logits: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    vectors: int,
    seed: int = 0,
) -> dict[str, int]:
    """On how many of `rows` and of so many random vectors, edges included, another way to compute
    the student (C simulation, interpreter, RTL) gives all of its logits bit for bit.
    """
    found: dict[str, int] = {}
    for name, x in (("rows", rows), ("vectors", random_rows(fixed, vectors, seed))):
        equal = (logits(x) == fixed.logits(x)).all(1) if len(x) else np.zeros(0)
        found |= {name: len(x), f"equal_{name}": int(equal.sum())}
    return found
