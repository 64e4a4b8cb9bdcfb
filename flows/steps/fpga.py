"""The FPGA leg as the flow sees it: texts in, logits out. What runs there is a distilled student.

The tuned language model labels a large pool of sentences that nobody labelled; a small network over
hashed words learns its answers, is trained again in fixed point, and becomes an HLS design. The
same network trained on the few hard labels stands beside it, so that the gain of distilling shows.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...hw import hls, quantise, student
from ...hw.fixed import FixedStudent, random_rows
from ...hw.network import Network
from ..recipe import Recipe
from . import data
from .backends import Backend, Card

RANDOM_VECTORS = 20_000
Rows = Sequence[dict[str, Any]]


class StudentBackend:
    """A student, whichever way it computes, behind the protocol of all backends."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray], bins: int) -> None:
        self.logits, self.bins = logits, bins

    def answer(self, rows: Rows) -> list[np.ndarray]:
        counts = student.features([row["text"] for row in rows], self.bins)
        return list(self.logits(counts)[:, None])


def open_student(name: str, folder: Path) -> Backend:
    """`student-float`, `student-fixed` or `hls-csim` from its artifact folder."""
    if name == "student-float":
        float_student = Network.load(folder)
        return StudentBackend(float_student.logits, float_student.shape[0])
    if name == "student-fixed":
        fixed = FixedStudent.load(folder)
        return StudentBackend(fixed.logits, fixed.shape[0])
    simulation = hls.CSim(folder)
    return StudentBackend(simulation.logits, simulation.bins)


def distil(
    recipe: Recipe,
    rows: dict[str, list[dict[str, Any]]],
    teacher: np.ndarray,
    folder: Path,
    tell: Callable[[float], None],
) -> None:
    """Train the float and the fixed-point student; write both, and fpga.json, to `folder`.

    `teacher`: the tuned model's logits float32 [pool + train rows, classes], in that order.
    """
    chip, labels = recipe.fpga, data.labels(rows["train"])
    x = student.features([r["text"] for r in (*rows["pool"], *rows["train"])], chip.bins)
    soft = np.exp(teacher - teacher.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    few, test = (
        x[len(rows["pool"]) :],
        student.features([r["text"] for r in rows["test"]], chip.bins),
    )
    hard = np.eye(len(labels), dtype=np.float32)[[labels.index(r["label"]) for r in rows["train"]]]
    truth = np.array([labels.index(r["label"]) for r in rows["test"]])

    def ticking(start: float) -> Callable[[int, float], None]:
        return lambda epoch, loss: tell(start + epoch / chip.epochs / 3)

    # as many steps for the hard-label student as for the distilled one, or it would lose for that
    more = chip.epochs * len(x) // len(few)
    alone = student.distil(few, hard, chip.hidden, min(more, 20 * chip.epochs), chip.seed)
    distilled = student.distil(x, soft, chip.hidden, chip.epochs, chip.seed, ticking(0))
    fixed = quantise.quantise(
        distilled,
        x,
        soft,
        chip.weight_bits,
        chip.activation_bits,
        chip.epochs // 2,
        chip.seed,
        ticking(1 / 3),
    )
    distilled.save(folder)
    fixed.save(folder)
    Card(recipe.data, recipe.model, labels).write(folder)
    found = {
        "part": chip.part,
        "bins": chip.bins,
        "parameters": sum(p.numel() for p in distilled.parameters()),
        "labelled_by_teacher": len(x),
        "hard_label_value": float((alone.logits(test).argmax(1) == truth).mean()),
        "distilled_value": float((distilled.logits(test).argmax(1) == truth).mean()),
        "layers": fixed.table(np.concatenate([x, test])),
    }
    (folder / "fpga.json").write_text(json.dumps(found, indent=1) + "\n")


def compile_design(recipe: Recipe, student_folder: Path, folder: Path) -> None:
    """Write and compile the hls4ml project of a fixed-point student."""
    hls.build(FixedStudent.load(student_folder), folder, recipe.fpga.part)
    Card.read(student_folder).write(folder)


def compare_random(student_folder: Path, design: Path) -> dict[str, int]:
    """On how many of 20,000 random in-range vectors, edges included, all logits are equal."""
    fixed, simulation = FixedStudent.load(student_folder), hls.CSim(design)
    x = random_rows(fixed, RANDOM_VECTORS, seed=0)
    equal = (fixed.logits(x) == simulation.logits(x)).all(1)
    return {"rows": len(x), "equal": int(equal.sum())}
