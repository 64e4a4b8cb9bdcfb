"""How a student learns: from a tuned model's answers to rows that nobody labelled, or from labels.

The same network trained on the few hard labels stands beside the distilled one, so that the gain of
distilling shows. It is a few dense layers or the user's own module; then it is trained again in
fixed point.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trivet.config.fpga import Fpga
from trivet.fpga import own_module
from trivet.fpga.inputs import Inputs, inputs_of
from trivet.hw.distill import OnEpoch, distill, ignore, train
from trivet.hw.fixed import FixedNetwork
from trivet.hw.module import from_module
from trivet.hw.network import Network
from trivet.hw.qat import quantize
from trivet.records.student import Layer, StudentFacts
from trivet.tasks.example import Row

Rows = dict[str, list[Row]]


class Lesson(NamedTuple):
    """What is learnt from: x [n, …], and targets float32 [n, classes] whose rows add to 1."""

    x: np.ndarray
    targets: np.ndarray


def prepare(chip: Fpga, rows: Sequence[Row], root: Path) -> tuple[Network | None, Inputs]:
    """The user's module as it may go on the chip (None: `fpga.hidden` dense layers), and the
    inputs that the rows make. UserError for whatever would fail later.
    """
    module, network = own_module.load(chip, root), None
    if module:
        x = np.zeros(chip.bins) if "text" in rows[0] else np.array(rows[0]["x"])
        network = from_module(module, x.shape)
    return network, inputs_of(rows, chip, network)


def distillation_targets(
    inputs: Inputs, rows: Rows, labels: list[str], teacher: np.ndarray | None
) -> Lesson:
    """The teacher's probabilities for the pool and the training rows, float32 logits [rows,
    classes] in that order; the labels of the training rows where there is no teacher.
    """
    if teacher is None:
        truth = [labels.index(row["label"]) for row in rows["train"]]
        return Lesson(inputs.encode(rows["train"]), np.eye(len(labels), dtype=np.float32)[truth])
    soft = np.exp(teacher - teacher.max(1, keepdims=True))
    x = inputs.encode([*rows["pool"], *rows["train"]])
    return Lesson(x, soft / soft.sum(1, keepdims=True))


class Student(NamedTuple):
    """A student in float and in fixed point, and what is known of it."""

    network: Network
    fixed: FixedNetwork
    inputs: Inputs
    facts: StudentFacts


def learn(
    chip: Fpga,
    root: Path,
    rows: Rows,
    labels: list[str],
    teacher: np.ndarray | None,
    on_progress: Callable[[float], None],
) -> Student:
    """Train the float and the fixed-point student."""
    _, inputs = prepare(chip, rows["train"], root)
    lesson = distillation_targets(inputs, rows, labels, teacher)

    def ticking(start: float) -> OnEpoch:
        return lambda epoch, loss: on_progress(start + epoch / chip.epochs / 2)

    def accuracy(model: Network | FixedNetwork, split: str) -> float:
        right = [labels.index(row["label"]) for row in rows[split]]
        return float((model.logits(inputs.encode(rows[split])).argmax(1) == right).mean())

    hard = None
    if teacher is not None:
        # as many steps for the hard-label student as for the distilled one, or it would lose so
        few = distillation_targets(inputs, rows, labels, None)
        epochs = min(chip.epochs * len(lesson.x) // len(few.x), 20 * chip.epochs)
        hard = accuracy(train_float(chip, root, inputs, few, epochs), "test")
    network = train_float(chip, root, inputs, lesson, chip.epochs, ticking(0))
    fixed = quantize(
        network,
        *lesson,
        chip.weight_bits,
        chip.activation_bits,
        chip.epochs,
        chip.seed,
        ticking(1 / 2),
        inputs.input_type,
        chip.per_channel,
        chip.sparsity,
    )
    facts = StudentFacts(
        bins=inputs.bins,
        inputs=inputs.kind,
        labelled_by_teacher=0 if teacher is None else len(lesson.x),
        hard_label_value=hard,
        parameters=sum(p.numel() for p in network.parameters()),
        distilled_value=accuracy(network, "test"),
        valid_value=accuracy(fixed, "valid"),
        layers=_layers(fixed, lesson.x, inputs.encode(rows["test"])),
    )
    return Student(network, fixed, inputs, facts)


def train_float(
    chip: Fpga,
    root: Path,
    inputs: Inputs,
    lesson: Lesson,
    epochs: int,
    on_epoch: OnEpoch = ignore,
) -> Network:
    """A float student: the user's module, trained unless its weights are given, or dense layers."""
    x, targets = lesson
    module = own_module.load(chip, root)
    if module is None:
        flat = x.reshape(len(x), -1)
        return distill(flat, targets, chip.hidden, epochs, chip.seed, on_epoch)
    if chip.weights:
        return inputs.scaled(from_module(module, x.shape[1:]))
    return train(module, x, targets, epochs, chip.seed, on_epoch)


def _layers(fixed: FixedNetwork, x: np.ndarray, test: np.ndarray) -> list[Layer]:
    """The ranges over what was learnt and the test rows, and what of the test rows saturates."""
    pairs = zip(fixed.ranges(np.concatenate([x, test])), fixed.ranges(test), strict=True)
    return [
        Layer(**vars(row), test_saturated=its.saturated, test_values=its.values)
        for row, its in pairs
    ]
