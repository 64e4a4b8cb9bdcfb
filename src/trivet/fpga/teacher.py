"""A teacher: an artifact that holds a tuned model's answers to rows that nobody labelled."""

from typing import TYPE_CHECKING

import numpy as np

from trivet.artifacts.artifact import Artifact

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

LOGITS = "logits.npy"


class Teacher(Artifact):
    """logits.npy: float32 [pool + train rows, classes], in that order."""


def logits(run: "Run", student: Artifact) -> np.ndarray | None:
    """What the student's teacher said; None where it has none and learns labels alone."""
    for parent in student.parents(run.recipe):
        return np.load(run.path(parent) / LOGITS)  # type: ignore[no-any-return]
    return None
