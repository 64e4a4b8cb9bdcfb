"""The float network: a chain of few kinds of step, in one layout.

The float network, its training in fixed point and the exact fixed-point network are the same chain
over other numbers, so `apply` is written once.
Not here: the steps and their shapes (steps.py), fixed point (fixed.py), training (distill.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from trivet.hw.steps import NetworkRecord, Step, StepLike, shapes


def apply(step: StepLike, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
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
        """Of one row: at the input, and after each step."""
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
        """Write student.json and student.safetensors to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "student.safetensors")
        NetworkRecord(shape=self.shape, steps=tuple(self.steps)).write(folder)

    @classmethod
    def load(cls, folder: Path) -> "Network":
        """Raises DesignError when student.json is missing or not understood."""
        record = NetworkRecord.read(folder)
        state = load_file(folder / "student.safetensors")
        weights, biases = (
            [state[f"{part}.{at}"] for at in range(len(record.steps))]
            for part in ("weights", "biases")
        )
        return cls(record.shape, record.steps, weights, biases)


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> Network:
    """dense, ReLU, …, dense over `inputs` numbers, with torch's random start."""
    sizes = [inputs, *hidden, classes]
    linears = [nn.Linear(i, o) for i, o in pairwise(sizes)]
    steps = [Step("dense", relu=at < len(hidden)) for at in range(len(linears))]
    return Network((inputs,), steps, [m.weight for m in linears], [m.bias for m in linears])
