"""Everything that answers rows, behind one protocol: rows in, one array of logits for each row out.

A backend opens a folder, as a user would, never an object that is still in memory: what is scored
is what ships. Each folder carries its card (the prompt, the labels, the base), so it can be opened
without the recipe. Scoring, parity table, gates, `predict`, help and report ask what is registered,
and know no backend by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from trivet.artifacts.artifact import Artifact
from trivet.backends.gate import BitExact, Gate
from trivet.tasks.example import Row

if TYPE_CHECKING:
    from trivet.config.recipe import Recipe
    from trivet.records.score import Vectors


@dataclass(frozen=True)
class Target:
    """What a stage runs on, and by what; `note`: what a reader must know where it is not alone."""

    name: str
    title: str
    by: str
    note: str = ""


class Usage(NamedTuple):
    """What to do with a folder without Trivet: words, and commands from the workspace's folder."""

    words: str
    commands: str


GPU = Target("gpu", "GPU", "torch", "Without a GPU, torch answers on the CPU.")
CPU = Target("cpu", "CPU", "ONNX Runtime")
FPGA = Target(
    "fpga", "FPGA", "student", "The chip runs the distilled student, not the language model."
)


class Session(Protocol):
    """An opened backend."""

    def answer(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Float logits [answers, classes] for each row; of a reply: classes = the vocabulary."""
        ...

    def row(self, text: str) -> Row | None:
        """A row from what a person typed, where this backend reads another than the task's."""
        ...


class Talking(Session, Protocol):
    """A session of a task that talks."""

    def reply(self, messages: list[dict[str, str]], tokens: int = 64) -> str:
        """The greedy reply to a conversation, at most `tokens` long."""
        ...


class Backend(ABC):
    """A registered backend.

    `artifact`: what it opens. `reference`: the stage that it is compared with, None for the first.
    `gate`: what it may lose to that. `words`: what it is, for the report. `preferred`: answers
    where the user names no backend; `preferred_to_talk`: the same for replies. `snippet`: the
    runtime that its folder needs without Trivet, as `Task.snippet` knows it; empty: there is none.
    `stock`: the module that is this runtime's part of verify.py (stock/); empty: it brings none.
    `quantises`: activations are, as they come, so that rounding moves a logit by more than a hair.
    """

    name: ClassVar[str]
    artifact: ClassVar[Artifact]
    reference: "ClassVar[Backend | None]" = None
    gate: ClassVar[Gate]
    target: ClassVar[Target]
    words: ClassVar[str]
    preferred: ClassVar[bool] = False
    preferred_to_talk: ClassVar[bool] = False
    snippet: ClassVar[str] = ""
    stock: ClassVar[str] = ""
    quantises: ClassVar[bool] = False

    @property
    def bit_exact(self) -> bool:
        return isinstance(self.gate, BitExact)

    def reference_among(self, backends: "Sequence[Backend]") -> "Backend | None":
        """The nearest stage before this one that is among them."""
        before = self.reference
        while before and before not in backends:
            before = before.reference
        return before

    def wanted(self, recipe: "Recipe") -> bool:
        """Whether a recipe's run is proven on it."""
        return self.artifact.wanted(recipe)

    def inside(self, run: Path) -> bool:
        """Whether a run's folder holds it."""
        return (run / self.artifact.name).is_dir()

    @abstractmethod
    def open(self, folder: Path, threads: int = 0) -> Session:
        """From its artifact's folder; `threads`: 0 = all that torch may use."""

    def usage(self, run: Path) -> Usage | None:
        """Of what it has in a run's folder, where that is of use without Python."""
        return None

    def compare_vectors(self, folder: Path) -> "Vectors | None":
        """Random inputs on which it equals its reference, of a backend that is bit-exact."""
        return None
