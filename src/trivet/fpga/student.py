"""The FPGA leg as the flow sees it: rows in, logits out. What runs there is a small student.

With a tuned language model, it labels a large pool of sentences that nobody labelled and the
student learns its answers; the same network trained on the few hard labels stands beside it, so
that the gain of distilling shows. Without one (a recipe that has no `[tune]`) the student learns
the labels alone. It is a few dense layers or the user's own module; then it is trained again in
fixed point, and becomes a design.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...hw import hls, quantise, rtl, search, simulate, student, synth, vendor
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
    truth = {k: [labels.index(r["label"]) for r in rows[k]] for k in ("valid", "test")}
    read = {k: inputs.read(rows[k]) for k in truth}
    x, targets = _lesson(inputs, rows, labels, teacher)

    def ticking(start: float) -> OnEpoch:
        return lambda epoch, loss: tell(start + epoch / chip.epochs / 2)

    def right(model: Network | FixedStudent, split: str) -> float:
        return float((model.logits(read[split]).argmax(1) == truth[split]).mean())

    found: dict[str, Any] = {"bins": inputs.bins, "inputs": inputs.kind}
    found |= {"labelled_by_teacher": 0, "hard_label_value": None}
    if teacher is not None:
        # as many steps for the hard-label student as for the distilled one, or it would lose so
        few = _lesson(inputs, rows, labels, None)
        more = chip.epochs * len(x) // len(few[0])
        alone = _train(chip, root, inputs, *few, min(more, 20 * chip.epochs))
        found |= {"labelled_by_teacher": len(x), "hard_label_value": right(alone, "test")}
    network = _train(chip, root, inputs, x, targets, chip.epochs, ticking(0))
    fixed = quantise.quantise(
        network,
        x,
        targets,
        chip.weight_bits,
        chip.activation_bits,
        chip.epochs,
        chip.seed,
        ticking(1 / 2),
        inputs.given,
        chip.per_channel,
        chip.sparsity,
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


def _lesson(
    inputs: Inputs,
    rows: dict[str, list[dict[str, Any]]],
    labels: list[str],
    teacher: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a student learns from: x, and targets float32 [n, classes] whose rows add to 1."""
    if teacher is None:
        truth = [labels.index(row["label"]) for row in rows["train"]]
        return inputs.read(rows["train"]), np.eye(len(labels), dtype=np.float32)[truth]
    soft = np.exp(teacher - teacher.max(1, keepdims=True))
    return inputs.read([*rows["pool"], *rows["train"]]), soft / soft.sum(1, keepdims=True)


def searched(
    recipe: Recipe,
    root: Path,
    rows: dict[str, list[dict[str, Any]]],
    teacher: np.ndarray | None,
) -> tuple[search.Rows, Network | None]:
    """What the trials of a search learn from and are judged by; the user's own network, trained,
    where there is one.
    """
    labels = data.labels(rows["train"])
    own, inputs = prepare(recipe, rows["train"], root)
    x, targets = _lesson(inputs, rows, labels, teacher)
    right = np.array([labels.index(row["label"]) for row in rows["valid"]])
    network = _train(recipe.fpga, root, inputs, x, targets, recipe.fpga.epochs) if own else None
    return search.Rows(x, targets, inputs.read(rows["valid"]), right, inputs.given), network


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


def compile_hls(recipe: Recipe, rows: Rows, student_folder: Path, folder: Path) -> None:
    """Write and compile the hls4ml project of a fixed-point student.

    design.json also has what hls4ml's default precision would have done to the answers on `rows`.
    """
    fixed, part = FixedStudent.load(student_folder), recipe.fpga.part
    hls.build(fixed, folder, part)
    with TemporaryDirectory(dir=folder) as other:
        x = Inputs.load(student_folder).read(rows)
        default = hls.default_precision(fixed, Path(other), part, x)
    design = json.loads((folder / "design.json").read_text())
    design |= {"default_precision": default | {"precision": hls.DEFAULT}}
    (folder / "design.json").write_text(json.dumps(design, indent=1) + "\n")
    _sign(fixed, student_folder, folder)


def compile_verilog(recipe: Recipe, rows: Rows, student_folder: Path, folder: Path) -> None:
    """Write the student's Verilog and its test bench; `rows` are the first golden vectors."""
    fixed, chip = FixedStudent.load(student_folder), recipe.fpga
    x = _golden(fixed, rows, student_folder)
    rtl.prepare(fixed, folder, chip.part, chip.max_cycles, rows=x)
    _sign(fixed, student_folder, folder)


def compile_rtl(rows: Rows, design: Path, folder: Path) -> None:
    """A copy of the Verilog in `design` with its compiled simulation, and what that measured."""
    shutil.copytree(design, folder, dirs_exist_ok=True)
    fixed = FixedStudent.load(folder)
    rtl.check(fixed, folder, _golden(fixed, rows, folder))


def _golden(fixed: FixedStudent, rows: Rows, inputs: Path) -> np.ndarray:
    x = Inputs.load(inputs).read(rows[: rtl.GOLDEN // 2])
    return x.reshape(len(x), *fixed.shape)


def synthesise(project: Path, design: Path, folder: Path) -> None:
    """What the Verilog in `design` costs and how fast it runs, by open tools: synth.json; and by
    the vendor's, where they are on the PATH, run on copies of it and of the HLS project:
    vendor.json.
    """
    synth.synthesise(design / "src", folder)
    if not vendor.present():
        return
    hls_copy, rtl_copy = folder / "vendor" / "hls", folder / "vendor" / "rtl"
    shutil.copytree(design, rtl_copy)
    if project.exists():
        shutil.copytree(project, hls_copy)
    found = vendor.run(hls_copy if project.exists() else None, rtl_copy)
    (folder / "vendor.json").write_text(json.dumps(found, indent=1) + "\n")


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
