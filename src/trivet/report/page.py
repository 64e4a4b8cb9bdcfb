"""The report: one page that says what a run was asked, what it made and whether to trust it.

A parity table is proof only for whoever can read it, and a run is often judged by someone who did
not start it, on a phone, months later. So the page is whole in itself: no network, no script, only
the run's JSON files put into words, tables and drawings.

Not here: any measuring; what is not in the run's folder is not in the report.
"""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import chip
from .backends import LEGS

METRICS = {
    "accuracy": "accuracy",
    "span_f1": "span F1",
    "loss": "loss",
    "macro_f1": "macro F1",
    "token_accuracy": "token accuracy",
    "chrf": "chrF",
}
WAYS = {
    "hls-csim": "hls4ml project, C simulation",
    "alkaid": "Verilog compiler's bit-accurate interpreter",
    "rtl": "Verilog, simulated cycle by cycle",
}
HOST = {
    "counts": "hashes words and letters",
    "numbers": "shifts each number into its range",
    "ids": "gives token ids",
}
LEG_WORDS = {"torch": ("GPU", "torch"), "cpu": ("CPU", "ONNX Runtime"), "fpga": ("FPGA", "student")}
MOST_LABELS = 45  # a heat map of more cannot be read
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 220, 38, 12, 10, 34  # of the loss curve
CELL, LETTER = 18, 6.4  # of the heat map, px: a cell's side, a letter's usual width


def write(run: Path) -> Path:
    """Write run/report.html from the JSON files in `run`, whole or not at all; returns its path.

    Needs recipe.json, data.json, parity.json and lineage.json (FileNotFoundError); curve.json,
    confusion.json, fpga.json and search/pareto.svg are shown where they exist.
    """
    parity = _read(run, "parity")
    page = _environment().get_template("report.html")
    confusion = _read(run, "confusion", optional=True)
    curve = _read(run, "curve", optional=True)
    fpga = _read(run, "fpga", optional=True)
    pareto = run / "search" / "pareto.svg"
    text = page.render(
        name=run.name,
        recipe=_read(run, "recipe"),
        card=_read(run, "data"),
        parity=parity,
        hops={hop["backend"]: hop for hop in parity["hops"]},
        legs=legs(parity["hops"]),
        baseline_wins=_baseline_wins(parity),
        curve=drawing(curve) if curve is not None else None,
        epochs=epochs(curve or []),
        heat=heat_map(**confusion) if confusion else None,
        fpga=fpga,
        wave=chip.waveform(fpga["wave"]) if fpga and fpga["wave"] else None,
        chip_resources=chip.resources(fpga) if fpga and fpga["synth"] else [],
        deviation=chip.deviation(fpga) if fpga else None,
        pareto=pareto.read_text(encoding="utf-8") if pareto.exists() else "",
        lineage=_read(run, "lineage"),
        hls=_hls_folder(run),
    )
    part = run / "report.part"
    part.write_text(text, encoding="utf-8")
    return part.replace(run / "report.html")


def curve_markdown(curve: list[dict[str, Any]]) -> str:
    """The loss curve as a markdown table, an epoch a line, with a bar for the validation loss.

    No image: the markdown of Prefect's UI drops data URIs.
    """
    rows = epochs(curve)
    longest = max((r["valid"] for r in rows if r["valid"] is not None), default=0.0)
    lines = ["| epoch | train loss | valid loss | |", "|---:|---:|---:|:---|"]
    for row in rows:
        bar = "█" * round(24 * (row["valid"] or 0) / longest) if longest else ""
        if row["best"]:
            bar += " kept"
        losses = f"{_loss(row['train'])} | {_loss(row['valid'])}"
        lines.append(f"| {row['epoch']} | {losses} | {bar} |")
    return "\n".join(lines) + "\n"


def epochs(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`[{"epoch", "step": its last, "train": mean, "valid": loss at its end, "best": bool}]`.

    A loss that is not finite counts as missing, and what is missing is None.
    """
    rows = []
    for epoch in sorted({p["epoch"] for p in curve}):
        points = [p for p in curve if p["epoch"] == epoch]
        train = [p["train_loss"] for p in points if _finite(p["train_loss"])]
        valid = [p["valid_loss"] for p in points if _finite(p["valid_loss"])]
        row = {"epoch": epoch, "step": points[-1]["step"], "best": False}
        row["train"] = fmean(train) if train else None
        row["valid"] = valid[-1] if valid else None
        rows.append(row)
    judged = [r for r in rows if r["valid"] is not None]
    if judged:
        min(judged, key=lambda r: r["valid"])["best"] = True
    return rows


def drawing(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The loss curve in SVG units: paths, dots, ticks. A path is "" where there is none."""
    train = [(p["step"], p["train_loss"]) for p in curve if _finite(p["train_loss"])]
    rows = epochs(curve)
    valid = [(r["step"], r["valid"], r["best"], r["epoch"]) for r in rows if r["valid"] is not None]
    top = max([loss for _, loss in train] + [v[1] for v in valid], default=1.0) or 1.0
    last = max([p["step"] for p in curve], default=1)

    def at(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return round(x, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top, 1)

    step = _nice(top / 4)
    few = max(1, math.ceil(len(rows) / 10))
    return {
        "size": (WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        "train": _path([at(*p) for p in _thin(train)]),
        "valid": _path([at(*v[:2]) for v in valid]),
        "dots": [(*at(*v[:2]), v[2], f"epoch {v[3]}: {v[1]:.3f}") for v in valid],
        "y": [(at(0, i * step)[1], f"{i * step:g}") for i in range(int(top / step + 1e-9) + 1)],
        "x": [(at(r["step"], 0)[0], r["epoch"]) for r in rows if r["epoch"] % few == 0],
    }


def legs(hops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trivet's legs from top to foot; those but the first start at a hop of another leg."""
    by_name = {hop["backend"]: hop for hop in hops}
    found = []
    for leg, backends in LEGS.items():
        steps = [by_name[b] for b in backends if b in by_name]
        if not steps:
            continue
        start = by_name.get(steps[0]["before"] or "")
        title, by = LEG_WORDS[leg]
        sound = all(hop["passed"] for hop in steps)
        found.append({"title": title, "by": by, "start": start, "hops": steps, "passed": sound})
    return found


def heat_map(labels: list[str], matrix: list[list[int]]) -> dict[str, Any]:
    """Cells of the confusion matrix in SVG units, truth down, answers across; its worst mistakes.

    Of many labels, the MOST_LABELS with most test rows are drawn.
    """
    counts = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n]
    wrong = sorted((n, labels[i], labels[j]) for n, i, j in counts if i != j)[::-1]
    order = sorted(range(len(labels)), key=lambda i: -sum(matrix[i]))[:MOST_LABELS]
    shown = sorted(order)
    names = [labels[i] if len(labels[i]) <= 28 else labels[i][:27] + "…" for i in shown]
    left = 16 + LETTER * max(map(len, names))
    place = {i: at for at, i in enumerate(shown)}
    cells = [
        {
            "x": place[j],
            "y": place[i],
            "n": n,
            "right": i == j,
            "shade": round(0.12 + 0.88 * n / sum(matrix[i]), 3),  # a single mistake must be seen
            "words": f"{labels[i]} answered as {labels[j]}: {n} of {sum(matrix[i])}",
        }
        for n, i, j in counts
        if i in place and j in place
    ]
    return {
        "names": names,
        "all": len(labels),
        "cells": cells,
        "left": round(left),
        "cell": CELL,
        "overhang": round(0.5 * left),
        "mistakes": wrong[:5],
        "wrong": sum(n for n, _, _ in wrong),
        "rows": sum(map(sum, matrix)),
    }


def _read(run: Path, name: str, optional: bool = False) -> Any:
    file = run / f"{name}.json"
    if optional and not file.exists():
        return None
    return json.loads(file.read_text(encoding="utf-8"))


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {"WAYS": WAYS, "HOST": HOST}
    env.filters |= {"figure": _figure, "percent": _percent, "loss": _loss, "repr": repr}
    env.filters |= {"metric": _metric, "link": _link}
    return env


def _baseline_wins(parity: dict[str, Any]) -> bool:
    """Whether the baseline does at least as well as the tuned model, as far as both were judged."""
    tuned, base = parity["hops"][0], parity["baseline"]
    sign = -1 if parity["metric"] == "loss" else 1
    return base is not None and sign * base["value"] >= sign * tuned["value"]


def _hls_folder(run: Path) -> str:
    """Where in the run the HLS tool's build script lies."""
    script = next(iter(sorted((run / "hls").rglob("build_prj.tcl"))), run / "hls" / "build_prj.tcl")
    return script.parent.relative_to(run).as_posix()


def _metric(name: str) -> str:
    return METRICS.get(name, name)


def _figure(value: float, metric: str) -> str:
    """A metric as a person reads it: a loss as it is, everything else in percent."""
    return f"{value:.3f}" if metric == "loss" else _percent(value)


def _percent(share: float) -> str:
    """One digit after the point, but never 100 % for what is not all."""
    text = f"{100 * share:.1f}"
    if text == "100.0":
        text = "100" if share >= 1 else ">99.9"
    return f"{text} %"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _link(address: str | None) -> str:
    """The address, if it is one that a browser may follow."""
    return address if address and address.startswith(("http://", "https://")) else ""


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten, not below `step`."""
    unit = 10.0 ** math.floor(math.log10(step))
    return next(f * unit for f in (1, 2, 5, 10) if f * unit >= step * (1 - 1e-9))


def _thin(points: list[tuple[int, float]], most: int = 300) -> list[tuple[float, float]]:
    """Means of neighbours, so that a long curve stays a line and not a band."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(s for s, _ in g), fmean(v for _, v in g)) for g in groups]


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x} {y}" for x, y in points) if points else ""
