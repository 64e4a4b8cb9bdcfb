"""The C simulation of an HLS project: compiled once with g++, then called as a library.

hls4ml is not needed to answer: the folder has the library, its weights and what the host looks up.
Not here: the project's sources (project.py).
"""

import ctypes
import math
import os
from pathlib import Path

import numpy as np

from trivet.hw import tools
from trivet.hw.errors import DesignError, ToolError
from trivet.hw.hls.records import HlsDesign

NAME = "student"  # of the top function
LOG = "csim.log"
LIBRARY = f"firmware/{NAME}-csim.so"
WEIGHTS = "STUDENT_WEIGHTS"  # the variable that tells the library where its weights lie
TABLE = "table.npy"  # float32 [tokens, channels]: the embedding that the host looks up
COMPILE_SECONDS = 900


def compile_simulation(folder: Path) -> None:
    """Compile the project's C simulation with g++; csim.log has what it said.

    Raises ToolError when the compiler fails, or takes over 15 minutes.
    """
    try:
        tools.run(["bash", "build_lib.sh"], folder, folder / LOG, COMPILE_SECONDS)
    except ToolError as error:
        raise ToolError(
            f"The C simulation did not compile: {error} ({tools.first_error(folder / LOG)}). All "
            f"of it is in {folder / LOG}. Make the network smaller or free memory."
        ) from error


class CSim:
    """The compiled C simulation in `folder`, as it is there: nothing is converted again."""

    def __init__(self, folder: Path) -> None:
        library = (folder / LIBRARY).resolve()
        if not library.exists():
            raise DesignError(f"{library} is missing: build the HLS project again.")
        design = HlsDesign.read(folder)
        self.shape, self.classes = design.shape, design.classes
        self.table = np.load(folder / TABLE) if design.on_host else None
        self._run = getattr(ctypes.CDLL(str(library)), f"{NAME}_float")
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._run.restype = None
        # the first call reads the weights, and keeps them
        os.environ[WEIGHTS] = str(library.parent / "weights")
        try:
            self.logits(np.zeros((1, *self.shape)))
        finally:
            del os.environ[WEIGHTS]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Numbers or ids [n, …], as many a row as `shape` has, to float32 [n, classes]."""
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(f"rows of {self.shape} are needed, the shape is {x.shape}")
        inputs = x if self.table is None else self.table[x.astype(np.int64)]
        inputs = np.ascontiguousarray(inputs, np.float32)
        logits = np.empty((len(x), self.classes), np.float32)
        for row, out in zip(inputs, logits, strict=True):
            self._run(row.ctypes.data, out.ctypes.data)
        return logits
