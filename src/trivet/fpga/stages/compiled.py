"""What every form compiled from the fixed-point student shares: it must equal it, bit for bit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trivet.artifacts.artifact import Artifact
from trivet.backends.gate import BitExact
from trivet.fpga.stages.student import FIXED, STUDENT, StudentBackend

if TYPE_CHECKING:
    import numpy as np

    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe
    from trivet.hw.fixed import FixedNetwork
    from trivet.records.score import Vectors


class Compiled(Artifact):
    """A design made from the fixed-point student; its tool may fail, and all else goes on."""

    optional = True

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.fpga.enabled

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (STUDENT,)


class CompiledBackend(StudentBackend):
    """`vectors`: random ones, edges included, on which all logits are compared."""

    reference = FIXED
    gate = BitExact()
    vectors: ClassVar[int] = 100_000

    def compare_vectors(self, folder: Path) -> "Vectors":
        """On how many random in-range vectors, edges included, all logits are the student's."""
        import numpy as np

        from trivet.hw.fixed import FixedNetwork
        from trivet.hw.vectors import compare
        from trivet.records.score import Vectors

        fixed = FixedNetwork.load(folder)
        none = np.zeros((0, *fixed.shape))
        equality = compare(fixed, self.network(folder).logits, none, self.vectors)
        return Vectors(rows=equality.vectors, equal=equality.equal_vectors)


def test_rows(run: "Run", most: int | None = None) -> "np.ndarray":
    """The first test rows as the student is fed them: [n, …]."""
    from trivet.data import dataset
    from trivet.fpga.inputs import Inputs

    rows = dataset.read(run.recipe.data, run.data.folder)["test"][:most]
    return Inputs.read(run.path(STUDENT)).encode(rows)


def golden_rows(run: "Run", fixed: "FixedNetwork") -> "np.ndarray":
    """Half of the golden vectors, shaped as the network's rows."""
    from trivet.hw.rtl.project import GOLDEN

    x = test_rows(run, GOLDEN // 2)
    return x.reshape(len(x), *fixed.shape)


def sign(run: "Run", folder: Path) -> Any:
    """A form of the student carries its card and inputs, and the student that it must equal."""
    from trivet.fpga.inputs import Inputs
    from trivet.hw.fixed import FixedNetwork
    from trivet.records.card import Card

    student = run.path(STUDENT)
    Card.read(student).write(folder)
    Inputs.read(student).write(folder)
    FixedNetwork.load(student).save(folder)
