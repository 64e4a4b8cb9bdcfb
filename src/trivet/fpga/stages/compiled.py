"""What every form compiled from the fixed-point student shares: it must equal it, bit for bit."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trivet.backends.gate import BitExact
from trivet.fpga.stages.student import FIXED, StudentBackend

if TYPE_CHECKING:
    from trivet.records.score import Vectors


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
