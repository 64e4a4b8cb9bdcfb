"""What every design made from the fixed-point student shares."""

from typing import TYPE_CHECKING

from trivet.artifacts.artifact import Artifact
from trivet.fpga.student import STUDENT

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class Design(Artifact):
    """A design made from the fixed-point student; its tool may fail, and all else goes on."""

    optional = True

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.fpga.enabled

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (STUDENT,)

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        return (type(self).__module__, *dataset.code_roots(recipe.data.task))  # `test_rows` draws


def test_rows(run: "Run", most: int | None = None) -> "np.ndarray":
    """The first test rows as the student is fed them: [n, …]."""
    from trivet.data import dataset
    from trivet.fpga.inputs import Inputs

    rows = dataset.read(run.recipe.data, run.data.folder)["test"][:most]
    return Inputs.read(run.path(STUDENT)).encode(rows)


def sign(run: "Run", folder: "Path") -> None:
    """A form of the student carries its card and inputs, and the student that it must equal."""
    from trivet.fpga.inputs import Inputs
    from trivet.hw.fixed import FixedNetwork
    from trivet.records.card import Card

    student = run.path(STUDENT)
    Card.read(student).write(folder)
    Inputs.read(student).write(folder)
    FixedNetwork.load(student).save(folder)
