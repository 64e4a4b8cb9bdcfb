"""The parity table: each hop beside the one before it, and the gates that decide.

A hop is a step away from the tuned model: merging, exporting, rounding, distilling, compiling. Its
row says how many answers stayed the same, how far the logits moved, and what that cost in the
metric. A gate is a sentence of the recipe; a hop that breaks one is named, and nothing is promoted.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..recipe import Gates, Recipe
from .backends import BACKENDS, EXACT

EQUAL = "logits equal to student-fixed on every row and every random vector"


class GateRefused(Exception):
    """A hop lost more than its gate allows; the message names hop, value and gate."""

    def __init__(self, parity: dict[str, Any]) -> None:
        said = (f"{r['backend']}: {r['measured']}, gate: {r['gate']}" for r in parity["refused"])
        super().__init__(f"{parity['run']} is not promoted. {'; '.join(said)}.")
        self.parity = parity


@dataclass(frozen=True)
class Scored:
    """One backend's score (metric, value, second, rows, ms_per_row) and where its logits lie."""

    backend: str
    score: dict[str, Any]
    logits: Path

    def read(self) -> np.ndarray:
        return np.load(self.logits, mmap_mode="r", allow_pickle=False)


def table(
    recipe: Recipe,
    run: str,
    scored: list[Scored],
    baseline: dict[str, Any] | None,
    threads: int,
    missing: dict[str, str] | None = None,
) -> dict[str, Any]:
    """parity.json: `hops` in the order of BACKENDS, `promoted` when every gate holds.

    `missing`: backend -> why it gave no answers (its tool failed); its gate does not hold.
    """
    by_name = {s.backend: s for s in scored}
    hops = []
    for entry in scored:
        before = by_name.get(BACKENDS[entry.backend][1] or "")
        hops.append(_hop(entry, before, recipe))
    refused = [
        {k: h[k] for k in ("backend", "value", "gate", "measured")} for h in hops if not h["passed"]
    ]
    refused += [
        {"backend": name, "value": None, "gate": EQUAL, "measured": f"no answers: {why}"}
        for name, why in (missing or {}).items()
    ]
    return {
        "run": run,
        "promoted": not refused,
        "task": recipe.data.task,
        "metric": scored[0].score["metric"],
        "threads": threads,
        "machine": f"{platform.machine()}, {_processor()}",
        "baseline": baseline,
        "hops": hops,
        "refused": refused,
    }


def check(parity: dict[str, Any]) -> None:
    """Raise GateRefused when the table holds a hop that broke its gate."""
    if parity["refused"]:
        raise GateRefused(parity)


def _hop(entry: Scored, before: Scored | None, recipe: Recipe) -> dict[str, Any]:
    hop: dict[str, Any] = {
        "backend": entry.backend,
        "rows": entry.score["rows"],
        "metric": entry.score["metric"],
        "value": entry.score["value"],
        "second": entry.score["second"],
        "before": before.backend if before else None,
        "delta": entry.score["value"] - before.score["value"] if before else None,
        "agreement": None,
        "max_abs_diff": None,
        "exact": None,
        "ms_per_row": entry.score["ms_per_row"],
    }
    if before:
        ours, theirs = entry.read(), before.read()
        hop["agreement"] = float((ours.argmax(1) == theirs.argmax(1)).mean())
        hop["max_abs_diff"] = float(max(np.abs(a - b).max() for a, b in _chunks(ours, theirs)))
        if entry.backend in EXACT:
            vectors = entry.score["random"]
            hop["rows_equal"] = int((ours == theirs).all(1).sum())
            hop["exact"] = hop["rows_equal"] == len(ours) and vectors["equal"] == vectors["rows"]
    hop["gate"], hop["measured"], hop["passed"] = _judge(hop, entry, recipe.gates)
    return hop


def _chunks(a: np.ndarray, b: np.ndarray) -> Any:
    return ((a[i : i + 256], b[i : i + 256]) for i in range(0, len(a), 256))


def _judge(hop: dict[str, Any], entry: Scored, gates: Gates) -> tuple[str, str, bool]:
    """The gate in words, what was measured in words, and whether it holds."""
    name, worse = hop["backend"], -1 if hop["metric"] == "loss" else 1
    if hop["before"] is None:  # the first: the tuned model, or the student of labels alone
        if gates.min_value is None:
            return "", "", True
        words = f"{hop['metric']} at {'most' if worse < 0 else 'least'} {gates.min_value:g}"
        return words, f"{hop['value']:.4f}", bool(worse * (hop["value"] - gates.min_value) >= 0)
    if name in ("merged", "onnx-fp32"):
        least = gates.merged_agreement if name == "merged" else gates.onnx_fp32_agreement
        words = f"agreement with {hop['before']} at least {least:g}"
        return words, f"agreement {hop['agreement']:.4f}", hop["agreement"] >= least
    if name in EXACT:
        vectors = entry.score["random"]
        equal = f"{vectors['equal']:,} of {vectors['rows']:,} vectors equal"
        return EQUAL, f"largest difference {hop['max_abs_diff']:g}, {equal}", hop["exact"]
    most = {
        "onnx-int8": gates.onnx_int8_points,
        "student-float": gates.student_points,
        "student-fixed": gates.fixed_points,
    }[name]
    lost = 0.0 - worse * hop["delta"] * 100  # 0.0 -: no "-0.00"
    words = (
        f"at most {most:g} point{'' if most == 1 else 's'} of {hop['metric']} below {hop['before']}"
    )
    # 1e-9: the gate is a decimal number, the difference of two ratios is not
    return words, f"{lost:.2f} points lost", lost <= most + 1e-9


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "unknown"
    )
