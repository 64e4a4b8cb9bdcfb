"""One trial: a student trained as a run would, judged on validation rows, its LUTs counted.

Its accuracy is never that on test rows. It is kept as a small file, whole or not at all.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from trivet.hw.distill import distill
from trivet.hw.errors import DesignError
from trivet.hw.features import COUNT_TYPE
from trivet.hw.fixed import Fixed
from trivet.hw.network import Network
from trivet.hw.qat import quantize
from trivet.hw.record import Part, Record
from trivet.hw.rtl.verilog import Estimate, estimate

MARGIN = 1.1  # yosys finds up to so many LUTs for one that alkaid counts (docs/fpga-students.md)


@dataclass(frozen=True)
class LearningRows:
    """What a trial learns from and is judged by: x [n, …], targets float [n, classes] adding to 1;
    valid_x [m, …] and the right answers valid_y int [m]. `input_type` is the type of x.
    """

    x: np.ndarray
    targets: np.ndarray
    valid_x: np.ndarray
    valid_y: np.ndarray
    input_type: Fixed = COUNT_TYPE


class Point(Part):
    """What makes a student: the sizes of its hidden layers (none for a network of one's own), and
    of each layer with weights its bits and the share of its weights that are zero.
    """

    hidden: tuple[int, ...]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    sparsity: tuple[float, ...]


class Trial(Record):
    """A finished trial: accuracy 0 to 1, cost in LUTs as alkaid counts them, cycles to the answer,
    and how long it took. `FILE` is that of the chosen one.
    """

    FILE: ClassVar[str] = "chosen.json"
    point: Point
    accuracy: float
    cost: float
    cycles: int
    seconds: float

    @property
    def lut(self) -> float:
        """The LUTs that its synthesis should not go above."""
        return MARGIN * self.cost


def evaluate(
    point: Point, rows: LearningRows, epochs: int, seed: int, network: Network | None = None
) -> Trial:
    """Train the student of a point as a run would, judge it on the validation rows, count LUTs.

    `network`: a trained float network to use in place of dense layers of the sizes `hidden`.
    """
    started = time.perf_counter()
    network = network or distill(rows.x, rows.targets, point.hidden, epochs, seed)
    fixed = quantize(
        network,
        rows.x,
        rows.targets,
        point.weight_bits,
        point.activation_bits,
        epochs,
        seed,
        input_type=rows.input_type,
        sparsity=point.sparsity,
    )
    right = fixed.logits(rows.valid_x).argmax(1) == rows.valid_y
    try:
        design = estimate(fixed)
    except DesignError:  # so many zeros that a layer is a constant: then it is of no size either
        design = Estimate(cost=0.0, cycles=2)
    return Trial(
        point=point,
        accuracy=float(right.mean()),
        cost=design.cost,
        cycles=design.cycles,
        seconds=time.perf_counter() - started,
    )


def store(trial: Trial, folder: Path) -> Path:
    """Keep a finished trial, whole or not at all, in a file that its point names."""
    point = json.dumps(trial.point.model_dump(mode="json"), sort_keys=True)
    path = folder / f"{hashlib.sha256(point.encode()).hexdigest()[:12]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(trial.to_json(), encoding="utf-8")
    return part.replace(path)


def load(folder: Path) -> list[Trial]:
    """The finished trials in a folder, in one order whichever finished first."""
    return [Trial.parse(file.read_text("utf-8"), file) for file in sorted(folder.glob("*.json"))]
