"""How accurate are the shipped recipes' students on the chip, and how large? Five seeds each.

Run: .venv/bin/python benchmarks/fpga_students.py   (15 minutes on a core that others used too)
Writes docs/fpga-students.json and docs/fpga-students.md; a run that is stopped goes on where it
was. The seed is the student's: the rows and the teacher are the recipe's. Accuracy is that on the
test rows. The recipes' values were found by hand on the validation rows, with the test rows in
view: a search (trivet fpga search) sees the former alone. LUTs are Yosys' estimate for xcup.
"""

import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from trivet.artifacts.run import Run
from trivet.backends.merged import WHOLE
from trivet.config.recipe import load
from trivet.data import dataset, versions
from trivet.evaluate.score import Scored
from trivet.fpga.labels import LABELS
from trivet.fpga.searched import search_rows
from trivet.fpga.student import STUDENT
from trivet.fpga.teacher import logits
from trivet.fpga.training import prepare
from trivet.hw.distill import distill
from trivet.hw.qat import quantize
from trivet.hw.rtl import verilog
from trivet.hw.synth import open_tools
from trivet.plugins import TASKS
from trivet.records.score import Score

SEEDS = range(5)
ROOT = Path(__file__).resolve().parents[1]
JSON, TABLE = ROOT / "docs" / "fpga-students.json", ROOT / "docs" / "fpga-students.md"
STUDENTS: dict[str, tuple[str, list[str]]] = {  # recipe and overrides
    "digits": ("digits.toml", []),
    "voice commands": ("home-smollm2.toml", []),
    "voice commands, larger": (
        "home-smollm2.toml",
        ["fpga.hidden=[32]", "fpga.sparsity=[0.89, 0.45]", "fpga.max_lut=10000"],
    ),
}


def begin(recipe: str, overrides: list[str]) -> tuple[Run, float | None]:
    """The run up to its student, and how accurate the teacher is (None where there is none)."""
    chosen = load(recipe, overrides)
    run = Run.begin(ROOT, chosen, versions.version(chosen.data, ROOT))
    if not LABELS.wanted(chosen):
        return run, None
    for artifact in (*run.line(LABELS), *run.line(Scored(WHOLE))):
        run.build(artifact)
    return run, Score.read(run.path(Scored(WHOLE))).metric.value


def measure(run: Run, seed: int) -> dict[str, Any]:
    """Train the student with this seed; its accuracies, its cost and its synthesis for xcup."""
    rows, chip = dataset.read(run.recipe.data, run.data.folder), run.recipe.fpga
    labels = TASKS[run.recipe.data.task].labels(rows["train"])
    learnt, _ = search_rows(chip, ROOT, rows, labels, logits(run, STUDENT))
    _, inputs = prepare(chip, rows["train"], ROOT)
    truth = np.array([labels.index(row["label"]) for row in rows["test"]])
    test = inputs.encode(rows["test"])
    network = distill(learnt.x, learnt.targets, chip.hidden, chip.epochs, seed)
    fixed = quantize(
        network,
        learnt.x,
        learnt.targets,
        chip.weight_bits,
        chip.activation_bits,
        chip.epochs,
        seed,
        input_type=learnt.input_type,
        sparsity=chip.sparsity,
    )
    with tempfile.TemporaryDirectory() as folder:
        design = verilog.write(fixed, Path(folder), chip.part, chip.max_cycles)
        area = open_tools.area(Path(folder) / "src", Path(folder), "xcup")
        ecp5 = open_tools.area(Path(folder) / "src", Path(folder), "ecp5")
        clock = open_tools.clock(Path(folder), ecp5.lut)

    def right(model: Any, x: np.ndarray, labels: np.ndarray) -> float:
        return float((model.logits(x).argmax(1) == labels).mean())

    return {
        "seed": seed,
        "layers": "-".join(str(shape[-1]) for shape in fixed.shapes),
        "float": right(network, test, truth),
        "valid": right(fixed, learnt.valid_x, learnt.valid_y),
        "test": right(fixed, test, truth),
        "cost": design.cost,
        "lut": area.lut + area.lut_ram,
        "ff": area.ff,
        "dsp": area.dsp,
        "cycles": design.cycles,
        "ecp5_lut": ecp5.lut,
        "mhz": clock.mhz,
    }


def table(results: dict[str, Any]) -> str:
    """Means over the seeds, the range of test accuracy, the largest of what must not be large."""
    lines = [
        "| student | teacher | float | test (least to most) | cost | LUT (most) | DSP | cycles "
        "| MHz on ECP5 (least) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, it in results["students"].items():
        seeds = it["seeds"]

        def over(key: str, how: Any = mean, seeds: Any = seeds) -> Any:
            return how(seed[key] for seed in seeds)

        teacher = f"{it['teacher']:.1%}" if it["teacher"] else "none"
        clocked = all("mhz" in seed for seed in seeds)
        clock = f"{over('mhz'):.0f} ({over('mhz', min):.0f})" if clocked else "not taken"
        lines.append(
            f"| {name}, {seeds[0]['layers']} | {teacher} | {over('float'):.1%} "
            f"| {over('test'):.1%} ({over('test', min):.1%} to {over('test', max):.1%}) "
            f"| {over('cost'):,.0f} | {over('lut'):,.0f} ({over('lut', max):,}) "
            f"| {over('dsp', max)} | {over('cycles', max)} | {clock} |"
        )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    results = json.loads(JSON.read_text()) if JSON.exists() else {"students": {}}
    results["machine"] = f"{platform.machine()}, {os.cpu_count()} shared cores"
    results["versions"] = {name: version(name) for name in ("torch", "alkaid", "pyosys")}
    for name, (recipe, overrides) in STUDENTS.items():
        run, accuracy = begin(recipe, overrides)
        chip = run.recipe.fpga.model_dump()
        chosen = {k: chip[k] for k in ("hidden", "weight_bits", "activation_bits", "sparsity")}
        it = results["students"].get(name)
        if it is None or it["chosen"] != chosen:
            it = {"teacher": accuracy, "chosen": chosen, "seeds": []}
            results["students"][name] = it
        for seed in SEEDS:
            if seed not in [one["seed"] for one in it["seeds"]]:
                it["seeds"].append(measure(run, seed))
                JSON.write_text(json.dumps(results, indent=1) + "\n")
                print(name, it["seeds"][-1])
    TABLE.write_text(f"# Students on the chip\n\n{(__doc__ or '').strip()}\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
