"""A search: what its trials learn from, and what they have in common, which makes its key."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.config.fpga import Fpga
from trivet.fpga.student import CHIP, Student
from trivet.fpga.training import Rows, distillation_targets, prepare, train_float
from trivet.hw.network import Network
from trivet.hw.search.trial import LearningRows

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

TRIED = {"hidden", "weight_bits", "activation_bits", "sparsity"}  # what trials differ in


class Searched(Student):
    """Not built by a run, so not registered: it grows by a file a trial (flows/search.py)."""

    name = "search"

    def settings(self, run: "Run") -> dict[str, Any]:
        settings = super().settings(run)
        return settings | {
            "fpga": run.recipe.fpga.model_dump(exclude={"enabled", *CHIP, *TRIED}),
        }


SEARCHED = Searched()


def search_rows(
    chip: Fpga, root: Path, rows: Rows, labels: list[str], teacher: np.ndarray | None
) -> tuple[LearningRows, Network | None]:
    """What the trials of a search learn from and are judged by; the user's own network, trained,
    where there is one.
    """
    own, inputs = prepare(chip, rows["train"], root)
    lesson = distillation_targets(inputs, rows, labels, teacher)
    right = np.array([labels.index(row["label"]) for row in rows["valid"]])
    network = train_float(chip, root, inputs, lesson, chip.epochs) if own else None
    judged = inputs.encode(rows["valid"])
    return LearningRows(*lesson, judged, right, inputs.input_type), network
