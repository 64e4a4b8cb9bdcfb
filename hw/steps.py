"""The steps of a network that may go on the chip, and the shapes between them. Without torch.

A row is numbers [features], a sequence [length, channels], or token ids [length]; positions come
before channels everywhere (torch's convolution has it the other way round).
Not here: what a step computes (network.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from pydantic import ConfigDict

from trivet.hw.record import Record

Kind = Literal["dense", "conv", "embedding", "sum"]


class StepLike(Protocol):
    """What `apply` asks of a step, whatever else it knows."""

    @property
    def kind(self) -> Kind: ...
    @property
    def relu(self) -> bool: ...
    @property
    def stride(self) -> int: ...


class HasShape(Protocol):
    """A torch tensor or a NumPy array."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Step:
    """dense: weight [out, in], on the flattened row. conv: [out, in, kernel], no padding.
    embedding: [tokens, channels], no bias. sum: over positions, no weight, no bias.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Kind
    relu: bool = False
    stride: int = 1


def shapes(
    shape: tuple[int, ...], steps: Sequence[StepLike], weights: Iterable[HasShape]
) -> list[tuple[int, ...]]:
    """Of one row: at the input, which is `shape`, and after each step."""
    sizes = [tuple(shape)]
    for step, weight in zip(steps, weights, strict=True):
        before, size = sizes[-1], weight.shape
        if step.kind == "dense":
            sizes.append((size[0],))
        elif step.kind == "conv":
            sizes.append(((before[0] - size[2]) // step.stride + 1, size[0]))
        elif step.kind == "embedding":
            sizes.append((before[0], size[1]))
        else:
            sizes.append((before[1],))
    return sizes


class NetworkRecord(Record):
    """student.json: the chain; its weights lie beside it in student.safetensors."""

    FILE: ClassVar[str] = "student.json"
    shape: tuple[int, ...]
    steps: tuple[Step, ...]
