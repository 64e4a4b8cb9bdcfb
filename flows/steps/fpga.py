"""The FPGA leg as the flow sees it: rows in, logits out. What runs there is a small student.

With a tuned language model, it labels a large pool of sentences that nobody labelled and the
student learns its answers; the same network trained on the few hard labels stands beside it, so
that the gain of distilling shows. Without one (a recipe that has no `[tune]`) the student learns
the labels alone. It is a few dense layers or the user's own module; then it is trained again in
fixed point, and becomes a design.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...hw import hls, quantise, rtl, simulate, student, synth
from ...hw.fixed import FixedStudent, compare
from ...hw.module import from_module
from ...hw.network import Network
from ..recipe import Fpga, Recipe
from . import data, module
from .backends import Backend, Card
from .inputs import Inputs, inputs_of

VECTORS = {"hls-csim": 100_000, "alkaid": 100_000, "rtl": 20_000}  # random ones, edges included
Rows = Sequence[dict[str, Any]]
OnEpoch = Callable[[int, float], None]


class StudentBackend:
    """A student, whichever way it computes, behind the protocol of all backends."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray], inputs: Inputs) -> None:
        self.logits, self.inputs = logits, inputs

    def answer(self, rows: Rows) -> list[np.ndarray]:
        return list(self.logits(self.inputs.read(rows))[:, None])


def open_student(name: str, folder: Path) -> Backend:
    """A student backend, in any of its forms, from its artifact folder."""
    if name == "student-float":
        logits = Network.load(folder).logits
    elif name == "student-fixed":
        logits = FixedStudent.load(folder).logits
    else:
        logits = compiled(name, folder).logits
    return StudentBackend(logits, Inputs.load(folder))


def compiled(name: str, folder: Path) -> hls.CSim | rtl.Interpreter | simulate.RtlSim:
    """What was compiled from the fixed-point student, ready to answer, from its artifact folder."""
    if name == "hls-csim":
        return hls.CSim(folder)
    return rtl.Interpreter(folder) if name == "alkaid" else simulate.RtlSim(folder)


def prepare(recipe: Recipe, rows: Rows, root: Path) -> tuple[Network | None, Inputs]:
    """The user's module as it may go on the chip (None: `fpga.hidden` dense layers), and the
    inputs that the rows make. UserError for whatever would fail later.
    """
    own, network = module.load(recipe.fpga, root), None
    if own:
        x = np.zeros(recipe.fpga.bins) if "text" in rows[0] else np.array(rows[0]["x"])
        network = from_module(own, x.shape)
    return network, inputs_of(rows, recipe.fpga, network)


def learn(
    recipe: Recipe,
    root: Path,
    rows: dict[str, list[dict[str, Any]]],
    teacher: np.ndarray | None,
    folder: Path,
    tell: Callable[[float], None],
) -> None:
    """Train the float and the fixed-point student; write both, and fpga.json, to `folder`.

    `teacher`: the tuned model's logits float32 [pool + train rows, classes], in that order; None
    where there is none, and the labels are learnt.
    """
    chip, labels = recipe.fpga, data.labels(rows["train"])
    _, inputs = prepare(recipe, rows["train"], root)
    truth = {k: [labels.index(r["label"]) for r in rows[k]] for k in ("train", "valid", "test")}
    read = {k: inputs.read(rows[k]) for k in truth}
    x, targets = read["train"], np.eye(len(labels), dtype=np.float32)[truth["train"]]

    def ticking(start: float) -> OnEpoch:
        return lambda epoch, loss: tell(start + epoch / chip.epochs / 3)

    def right(model: Network | FixedStudent, split: str) -> float:
        return float((model.logits(read[split]).argmax(1) == truth[split]).mean())

    found: dict[str, Any] = {"part": chip.part, "bins": inputs.bins, "inputs": inputs.kind}
    found |= {"labelled_by_teacher": 0, "hard_label_value": None}
    if teacher is not None:
        # as many steps for the hard-label student as for the distilled one, or it would lose so
        more = chip.epochs * len(teacher) // len(x)
        alone = _train(chip, root, inputs, x, targets, min(more, 20 * chip.epochs))
        found |= {"labelled_by_teacher": len(teacher), "hard_label_value": right(alone, "test")}
        x = inputs.read([*rows["pool"], *rows["train"]])
        targets = np.exp(teacher - teacher.max(1, keepdims=True))
        targets /= targets.sum(1, keepdims=True)
    network = _train(chip, root, inputs, x, targets, chip.epochs, ticking(0))
    fixed = quantise.quantise(
        network,
        x,
        targets,
        chip.weight_bits,
        chip.activation_bits,
        chip.epochs // 2,
        chip.seed,
        ticking(1 / 3),
        inputs.given,
        chip.per_channel,
    )
    network.save(folder)
    fixed.save(folder)
    inputs.write(folder)
    Card(recipe.data, recipe.model, labels).write(folder)
    found |= {
        "parameters": sum(p.numel() for p in network.parameters()),
        "distilled_value": right(network, "test"),
        "valid_value": right(fixed, "valid"),
        "layers": _ranges(fixed, x, read["test"]),
    }
    (folder / "fpga.json").write_text(json.dumps(found, indent=1) + "\n")


def _train(
    chip: Fpga,
    root: Path,
    inputs: Inputs,
    x: np.ndarray,
    targets: np.ndarray,
    epochs: int,
    on_epoch: OnEpoch = lambda epoch, loss: None,
) -> Network:
    """A float student: the user's module, trained unless its weights are given, or dense layers."""
    own = module.load(chip, root)
    if own is None:
        flat = x.reshape(len(x), -1)
        return student.distil(flat, targets, chip.hidden, epochs, chip.seed, on_epoch)
    if chip.weights:
        return inputs.scaled(from_module(own, x.shape[1:]))
    return student.train(own, x, targets, epochs, chip.seed, on_epoch)


def _ranges(fixed: FixedStudent, x: np.ndarray, test: np.ndarray) -> list[dict[str, Any]]:
    """The range table: `saturated` of all `values`, and `test_saturated` of the test rows'."""
    whole, judged = fixed.table(np.concatenate([x, test])), fixed.table(test)
    return [
        row | {f"test_{name}": its[name] for name in ("saturated", "values")}
        for row, its in zip(whole, judged, strict=True)
    ]


def compile_hls(recipe: Recipe, student_folder: Path, folder: Path) -> None:
    """Write and compile the hls4ml project of a fixed-point student."""
    fixed = FixedStudent.load(student_folder)
    hls.build(fixed, folder, recipe.fpga.part)
    _sign(fixed, student_folder, folder)


def compile_rtl(recipe: Recipe, rows: Rows, student_folder: Path, folder: Path) -> None:
    """Write the student's Verilog, compile its simulation; `rows` are the first golden vectors."""
    fixed, chip = FixedStudent.load(student_folder), recipe.fpga
    x = Inputs.load(student_folder).read(rows[: rtl.GOLDEN // 2])
    rtl.build(fixed, folder, chip.part, chip.max_cycles, rows=x.reshape(len(x), *fixed.shape))
    _sign(fixed, student_folder, folder)


def synthesise(design: Path, folder: Path) -> None:
    """What the Verilog in `design` costs and how fast it runs, by open tools: synth.json."""
    synth.synthesise(design / "src", folder)


def _sign(fixed: FixedStudent, student_folder: Path, folder: Path) -> None:
    """A form of the student carries its card and inputs, and the student that it must equal."""
    Card.read(student_folder).write(folder)
    Inputs.load(student_folder).write(folder)
    fixed.save(folder)


def compare_random(name: str, folder: Path) -> dict[str, int]:
    """On how many random in-range vectors, edges included, all logits are the student's."""
    fixed = FixedStudent.load(folder)
    found = compare(
        fixed, compiled(name, folder).logits, np.zeros((0, *fixed.shape)), VECTORS[name]
    )
    return {"rows": found["vectors"], "equal": found["equal_vectors"]}
