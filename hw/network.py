"""The networks that may go on the chip: a chain of few kinds of step, in one layout.

A row is numbers [features], a sequence [length, channels], or token ids [length]; positions come
before channels everywhere (torch's convolution has it the other way round). The float network, its
training in fixed point and the exact fixed-point network are the same chain over other numbers, so
`apply` is written once.
Not here: fixed point (quantise.py), training (student.py).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["dense", "conv", "embedding", "sum"]


class Like(Protocol):
    """What `apply` asks of a step, whatever else it knows."""

    @property
    def kind(self) -> Kind: ...
    @property
    def relu(self) -> bool: ...
    @property
    def stride(self) -> int: ...


class Sized(Protocol):
    """A torch tensor or a NumPy array."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Step:
    """dense: weight [out, in], on the flattened row. conv: [out, in, kernel], no padding.
    embedding: [tokens, channels], no bias. sum: over positions, no weight, no bias.
    """

    kind: Kind
    relu: bool = False
    stride: int = 1


def apply(step: Like, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One step on a batch: [n, *shape] to [n, *shape after it]. What it lacks is not looked at."""
    if step.kind == "dense":
        x = functional.linear(x.flatten(1), weight, bias)
    elif step.kind == "conv":
        x = functional.conv1d(x.transpose(1, 2), weight, bias, step.stride).transpose(1, 2)
    elif step.kind == "embedding":
        x = functional.embedding(x.long(), weight)
    else:
        x = x.sum(1)
    return torch.relu(x) if step.relu else x


def shapes(
    given: tuple[int, ...], steps: Sequence[Like], weights: Iterable[Sized]
) -> list[tuple[int, ...]]:
    """Of one row: as given, and after each step."""
    found = [tuple(given)]
    for step, weight in zip(steps, weights, strict=True):
        before, size = found[-1], weight.shape
        if step.kind == "dense":
            found.append((size[0],))
        elif step.kind == "conv":
            found.append(((before[0] - size[2]) // step.stride + 1, size[0]))
        elif step.kind == "embedding":
            found.append((before[0], size[1]))
        else:
            found.append((before[1],))
    return found


class Network(nn.Module):
    """A chain of steps in float: rows [n, *shape] to logits [n, classes]."""

    def __init__(
        self,
        shape: Sequence[int],
        steps: Sequence[Step],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.shape, self.steps = tuple(shape), list(steps)
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of one row: as given, and after each step."""
        return shapes(self.shape, self.steps, self.weights)

    def forward(self, x: Tensor) -> Tensor:
        for step, weight, bias in zip(self.steps, self.weights, self.biases, strict=True):
            x = apply(step, x, weight, bias)
        return x

    @torch.inference_mode()
    def logits(self, x: np.ndarray) -> np.ndarray:
        """Numbers or ids [n, …], as many a row as `shape` has, to float32 [n, classes]."""
        return self(torch.from_numpy(x).float().reshape(len(x), *self.shape)).numpy()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "student.safetensors")
        chain = {"shape": self.shape, "steps": [asdict(step) for step in self.steps]}
        (folder / "student.json").write_text(json.dumps(chain) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Network":
        chain = json.loads((folder / "student.json").read_text())
        steps, named = (
            [Step(**s) for s in chain["steps"]],
            load_file(folder / "student.safetensors"),
        )
        weights, biases = (
            [named[f"{part}.{at}"] for at in range(len(steps))] for part in ("weights", "biases")
        )
        return cls(chain["shape"], steps, weights, biases)


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> Network:
    """dense, ReLU, …, dense over `inputs` numbers, with torch's random start."""
    sizes = [inputs, *hidden, classes]
    linears = [nn.Linear(i, o) for i, o in pairwise(sizes)]
    steps = [Step("dense", relu=at < len(hidden)) for at in range(len(linears))]
    return Network((inputs,), steps, [m.weight for m in linears], [m.bias for m in linears])
