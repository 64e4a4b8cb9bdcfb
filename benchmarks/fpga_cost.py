"""Is the compiler's cost a fair estimate of LUTs? It is what the search of students minimises.

Run: .venv/bin/python benchmarks/fpga_cost.py   (13 minutes on a core that others used too)
Writes docs/fpga-cost.json and docs/fpga-cost.png; a run that is stopped goes on where it was.
Each design is compiled to Verilog and synthesised by Yosys for xcup. Some were trained on
scikit-learn's digits; others have random weights, of which all but a share are zero.
"""

import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_digits

from trivet.hw.distill import distill
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.network import mlp
from trivet.hw.qat import quantize
from trivet.hw.rtl import verilog
from trivet.hw.synth import open_tools

SEED, BAND = 0, 0.15
DOCS = Path(__file__).resolve().parents[1] / "docs"
TRAINED = [  # hidden sizes, weight bits, activation bits
    ([8], 3, 3),
    ([8], 5, 5),
    ([12], 3, 4),
    ([12], 4, 6),
    ([16], 3, 3),
    ([16], 4, 4),
    ([24], 3, 3),
    ([32], 3, 3),
    ([16, 8], 3, 4),
    ([16, 16], 4, 4),
    ([32, 16], 3, 3),
]
RANDOM = [  # sizes, weight bits, activation bits, input bits, share of weights that are not zero
    ([16, 8, 4], 4, 4, 4, 1.0),
    ([16, 16, 4], 6, 6, 4, 0.5),
    ([16, 16, 8, 4], 8, 8, 8, 0.5),
    ([32, 16, 5], 4, 4, 2, 0.5),
    ([32, 16, 5], 6, 6, 2, 0.3),
    ([32, 32, 5], 3, 3, 3, 0.6),
    ([64, 16, 10], 4, 4, 2, 0.3),
    ([64, 32, 10], 2, 3, 1, 0.6),
    ([64, 32, 10], 5, 5, 2, 0.2),
    ([64, 32, 32, 10], 4, 4, 2, 0.2),
    ([128, 32, 10], 4, 4, 2, 0.15),
    ([256, 32, 31], 4, 4, 2, 0.1),
]


def trained(hidden: list[int], weight_bits: int, activation_bits: int) -> FixedNetwork:
    digits = load_digits()
    x = (digits.data * 3 / 16).round().astype(np.uint8)
    targets = np.eye(10)[digits.target]
    network = distill(x, targets, hidden, 10, SEED)
    return quantize(network, x, targets, weight_bits, activation_bits, 5, SEED)


def random(
    sizes: list[int], weight_bits: int, activation_bits: int, input_bits: int, share: float
) -> FixedNetwork:
    torch.manual_seed(SEED)
    network = mlp(sizes[0], sizes[1:-1], sizes[-1])
    for weight in network.weights:
        weight.data *= torch.rand(weight.shape) < share
    x = np.random.default_rng(SEED).integers(0, 2**input_bits, (500, sizes[0]))
    targets = np.eye(sizes[-1])[np.zeros(len(x), int)]
    kind = Fixed(input_bits, input_bits, signed=False)
    return quantize(network, x, targets, weight_bits, activation_bits, 0, SEED, input_type=kind)


def measure(name: str, fixed: FixedNetwork) -> dict[str, Any]:
    """Compiler cost and LUTs of one design, and the seconds that each took."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        design = verilog.write(fixed, Path(folder))
        compile_seconds = time.perf_counter() - started
        area = open_tools.area(Path(folder) / "src", Path(folder), "xcup")
    zero = sum(int((w == 0).sum()) for w in fixed.weights) / sum(w.size for w in fixed.weights)
    return {
        "design": name,
        "zero_weights": round(zero, 2),
        "cost": design.cost,
        "lut": area.lut + area.lut_ram,
        "ff": area.ff,
        "cells": area.cells,
        "difference": design.cost / (area.lut + area.lut_ram) - 1,
        "compile_seconds": round(compile_seconds, 1),
        "synthesis_seconds": area.seconds,
    }


def designs() -> dict[str, Any]:
    """What makes each design, by the name it has in the table."""
    makers: dict[str, Any] = {}
    for hidden, weight, activation in TRAINED:
        name = f"digits {'-'.join(map(str, [64, *hidden, 10]))}, {weight}/{activation} bit"
        makers[name] = (trained, (hidden, weight, activation))
    for row in RANDOM:
        sizes, weight, activation, inputs, share = row
        bits = f"{weight}/{activation}/{inputs} bit"
        makers[f"random {'-'.join(map(str, sizes))}, {bits}, {share:.0%}"] = (random, row)
    return makers


def draw(points: list[dict[str, Any]]) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure, panel = plt.subplots(figsize=(5.6, 4.4))
    ends = np.array([min(p["lut"] for p in points) / 1.3, max(p["lut"] for p in points) * 1.3])
    panel.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#1f6f5c", alpha=0.15)
    panel.plot(ends, ends, color="#1f6f5c", linewidth=1)
    for kind, marker in (("digits", "o"), ("random", "s")):
        drawn = [p for p in points if p["design"].startswith(kind)]
        label = {"digits": "trained on digits", "random": "random, sparse"}[kind]
        at = [[p[axis] for p in drawn] for axis in ("lut", "cost")]
        panel.plot(*at, marker, label=label, markersize=5, alpha=0.8)
    panel.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(FixedLocator([500, 1000, 2000, 4000]))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    panel.set(xlabel="LUTs after Yosys synthesis (xcup)", ylabel="compiler cost")
    panel.legend(title=f"band: ±{BAND:.0%}", frameon=False)
    figure.tight_layout()
    figure.savefig(DOCS / "fpga-cost.png", dpi=150)


def main() -> None:
    torch.set_num_threads(1)
    file = DOCS / "fpga-cost.json"
    versions = {package: version(package) for package in ("alkaid", "pyosys")}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    results: dict[str, Any] = {
        "machine": machine,
        "seed": SEED,
        "versions": versions,
        "band": BAND,
        "designs": [],
    }
    if file.exists() and json.loads(file.read_text())["versions"] == versions:
        results = json.loads(file.read_text())
    done = {point["design"] for point in results["designs"]}
    for name, (make, arguments) in designs().items():
        if name in done:
            continue
        point = measure(name, make(*arguments))
        results["designs"].append(point)
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(
            f"{name:42} {point['cost']:7.0f} {point['lut']:6} {point['difference']:+.1%}",
            flush=True,
        )
    missed = [p["design"] for p in results["designs"] if abs(p["difference"]) > BAND]
    print(f"{len(results['designs'])} designs, {len(missed)} beyond ±{BAND:.0%}: {missed}")
    draw(results["designs"])


if __name__ == "__main__":
    main()
