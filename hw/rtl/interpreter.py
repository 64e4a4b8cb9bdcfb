"""alkaid's bit-accurate interpreter: the program that became the Verilog, which knows no cycles.

Not here: the writing of that program (verilog.py).
"""

from pathlib import Path

import numpy as np

from trivet.hw.rtl.records import RtlDesign

PROGRAM = "model/comb.json.gz"


class Interpreter:
    """The program in `folder`. Raises DesignError when rtl.json is missing there."""

    def __init__(self, folder: Path) -> None:
        from alkaid.types import CombLogic  # a compiler comes with it

        self.design = RtlDesign.read(folder)
        self._program = CombLogic.load(folder / PROGRAM)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...] to float32 [n, classes]."""
        return self._program.predict(self.design.values(x), n_threads=1).astype(np.float32)
