"""The student, in float and in fixed point, computed on the host."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.backends.backend import FPGA, Backend, Session
from trivet.backends.gate import Points
from trivet.backends.merged import WHOLE
from trivet.fpga.student import STUDENT
from trivet.plugins import BACKENDS

if TYPE_CHECKING:
    from trivet.fpga.inputs import Inputs
    from trivet.tasks.example import Row


class StudentSession:
    """A student, whichever way it computes, behind the protocol of all backends."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray], inputs: "Inputs") -> None:
        self.logits, self.inputs = logits, inputs

    def answer(self, rows: "Sequence[Row]") -> list[np.ndarray]:
        return list(self.logits(self.inputs.encode(rows))[:, None])

    def row(self, text: str) -> "Row | None":
        return self.inputs.row(text)


class StudentBackend(Backend):
    target = FPGA
    artifact = STUDENT

    def open(self, folder: Path, threads: int = 0) -> Session:
        from trivet.fpga.inputs import Inputs

        return StudentSession(self.network(folder).logits, Inputs.read(folder))

    @abstractmethod
    def network(self, folder: Path) -> Any:
        """What has `logits`: rows [n, …] to float32 [n, classes]."""


class StudentFloat(StudentBackend):
    name = "student-float"
    reference = WHOLE
    gate = Points("student_points", 6.0)
    words = "student, float"

    def network(self, folder: Path) -> Any:
        from trivet.hw.network import Network

        return Network.load(folder)


class StudentFixed(StudentBackend):
    name = "student-fixed"
    gate = Points("fixed_points", 2.0)
    words = "student, fixed point"
    preferred = True

    def network(self, folder: Path) -> Any:
        from trivet.hw.fixed import FixedNetwork

        return FixedNetwork.load(folder)


FLOAT = BACKENDS.add(StudentFloat())
StudentFixed.reference = FLOAT
FIXED = BACKENDS.add(StudentFixed())
