"""The search for a student that fits the chip: accuracy against area and latency.

A point is a few values of the recipe's `[fpga]`: `hidden`, and `weight_bits`, `activation_bits`
and `sparsity` of each layer. A trial trains the student of a point in fixed point and lets alkaid
count: seconds, where synthesis takes minutes. Its accuracy is that on validation rows, never on
test rows. Each trial is a small file, so trials may run side by side, and one that is there is not
run again. Which point comes next is Optuna's (TPE, three objectives); it keeps no state of its own.
Not here: the running of many trials (flows), synthesis of the chosen one (synth.py).
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import UserError
from . import rtl
from .fixed import Fixed
from .network import Network
from .quantise import COUNTS, quantise
from .student import distil

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Point = dict[str, list[Any]]
Trial = dict[str, Any]  # point, accuracy 0-1, cost in LUTs, cycles, seconds
Space = dict[str, "BaseDistribution"]

MARGIN = 1.1  # yosys finds up to so many LUTs for one that alkaid counts (docs/fpga-students.md)
RANDOM = 8  # points before Optuna has seen enough to prefer some


@dataclass(frozen=True)
class Rows:
    """What a trial learns from and is judged by: x [n, …], targets float [n, classes] adding to 1;
    valid_x [m, …] and the right answers valid_y int [m]. `given` is the type of x.
    """

    x: np.ndarray
    targets: np.ndarray
    valid_x: np.ndarray
    valid_y: np.ndarray
    given: Fixed = COUNTS


def space(hidden: Sequence[int], layers: int) -> Space:
    """Half to twice each of the sizes `hidden`, and bits and zeros for each of `layers` layers.

    A network whose sizes are not to be searched, such as a user's own module, has no `hidden`.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    found: Space = {}
    for at, size in enumerate(hidden):
        found[f"hidden.{at}"] = IntDistribution(max(size // 2, 1), size * 2)
    for at in range(layers):
        found[f"weight_bits.{at}"] = IntDistribution(2, 6)
        # the weights that are kept make the size: as many points with few of them as with many
        found[f"kept.{at}"] = FloatDistribution(0.05, 1.0, log=True)
    for at in range(layers - 1):
        found[f"activation_bits.{at}"] = IntDistribution(2, 8)
    return found


def propose(searched: Space, trials: Sequence[Trial], seed: int, number: int) -> list[Point]:
    """Up to `number` points that no trial has had; the same trials and seed, the same points."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=RANDOM, seed=seed + len(trials), multivariate=True, constant_liar=True
    )
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
    for trial in trials:
        params = _flat(trial["point"], searched)
        values = [trial["accuracy"], trial["cost"], trial["cycles"]]
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=searched, values=values)
        )
    had, found = [trial["point"] for trial in trials], list[Point]()
    for _ in range(4 * number):  # a small space runs out of new points
        point = _point(study.ask(searched).params)
        if point not in had + found and len(found) < number:
            found.append(point)
    return found


def _point(params: dict[str, Any]) -> Point:
    """`{"hidden.0": 24, …}` to `{"hidden": [24], …}`; the logits' bits are the last layer's sum."""
    found: Point = {}
    for name in sorted(params, key=lambda name: int(name.split(".")[1])):
        found.setdefault(name.split(".")[0], []).append(params[name])
    return {
        "hidden": found.get("hidden", []),
        "weight_bits": found["weight_bits"],
        "activation_bits": [*found.get("activation_bits", []), 8],
        "sparsity": [round(1 - kept, 2) for kept in found["kept"]],
    }


def _flat(point: Point, searched: Space) -> dict[str, Any]:
    values = point | {"kept": [1 - sparsity for sparsity in point["sparsity"]]}
    parts = (name.split(".") for name in searched)
    return {f"{name}.{at}": values[name][int(at)] for name, at in parts}


def evaluate(
    point: Point, rows: Rows, epochs: int, seed: int, network: Network | None = None
) -> Trial:
    """Train the student of a point as a run would, judge it on the validation rows, count LUTs.

    `network`: a trained float network to use in place of dense layers of the sizes `hidden`.
    """
    started = time.perf_counter()
    network = network or distil(rows.x, rows.targets, point["hidden"], epochs, seed)
    fixed = quantise(
        network,
        rows.x,
        rows.targets,
        point["weight_bits"],
        point["activation_bits"],
        epochs,
        seed,
        given=rows.given,
        sparsity=point["sparsity"],
    )
    right = fixed.logits(rows.valid_x).argmax(1) == rows.valid_y
    try:
        cost, cycles = rtl.estimate(fixed)
    except UserError:  # so many zeros that a layer is a constant: then it is of no size either
        cost, cycles = 0.0, 2
    return {
        "point": point,
        "accuracy": float(right.mean()),
        "cost": cost,
        "cycles": cycles,
        "seconds": time.perf_counter() - started,
    }


def write(trial: Trial, folder: Path) -> Path:
    """Keep a finished trial, whole or not at all, in a file that its point names."""
    digest = hashlib.sha256(json.dumps(trial["point"], sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:12]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(trial, indent=1) + "\n")
    return part.replace(path)


def read(folder: Path) -> list[Trial]:
    """The finished trials in a folder, in one order whichever finished first."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats, from small to large: each is best at something."""

    def beats(a: Trial, b: Trial) -> bool:
        ours, theirs = ((-t["accuracy"], t["cost"], t["cycles"]) for t in (a, b))
        return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))

    best = [trial for trial in trials if not any(beats(other, trial) for other in trials)]
    return sorted(best, key=lambda trial: trial["cost"])


def choose(trials: Sequence[Trial], max_lut: int, max_cycles: int) -> Trial:
    """The most accurate trial within the budget; the cheapest, if several are.

    What synthesis may find above alkaid's count is allowed for. UserError when none fits.
    """
    fitting = [t for t in trials if lut(t) <= max_lut and t["cycles"] <= max_cycles]
    if fitting:
        return max(fitting, key=lambda trial: (trial["accuracy"], -trial["cost"]))
    smallest = min(trials, key=lut)
    raise UserError(
        f"fpga.max_lut = {max_lut}, fpga.max_cycles = {max_cycles}: none of {len(trials)} students "
        f"fits; the smallest needs about {lut(smallest):.0f} LUTs and {smallest['cycles']} cycles. "
        "Raise the budget or fpga.search_trials, or lower fpga.bins or fpga.hidden."
    )


def lut(trial: Trial) -> float:
    """The LUTs that a trial's synthesis should not go above."""
    return MARGIN * trial["cost"]


def picture(trials: Sequence[Trial], chosen: Trial, path: Path, max_lut: int | None = None) -> None:
    """All trials, the Pareto front and the chosen one, as PNG or SVG by the path's suffix."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()

    def at(some: Sequence[Trial]) -> tuple[list[float], list[float]]:
        return [lut(t) for t in some], [100 * t["accuracy"] for t in some]

    cycles = [trial["cycles"] for trial in trials]
    dots = axes.scatter(*at(trials), c=cycles, cmap="viridis", s=28, zorder=2, label="trial")
    figure.colorbar(dots, label="latency, cycles")
    best, top = [], -1.0
    for trial in pareto(trials):  # of accuracy and LUTs alone: a line can show no third one
        if trial["accuracy"] > top:
            best.append(trial)
            top = trial["accuracy"]
    axes.step(*at(best), where="post", color="0.5", lw=1, zorder=1, label="best for its size")
    axes.scatter(*at([chosen]), marker="*", s=220, color="crimson", zorder=3, label="chosen")
    if max_lut:
        axes.axvline(max_lut, color="crimson", ls=":", lw=1, label="fpga.max_lut")
    axes.set(xscale="log", xlabel="LUTs, at most (estimate)", ylabel="validation accuracy, %")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
