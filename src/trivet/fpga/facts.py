"""What a run knows of its chip: equality on every way, cycles, resources, and how to draw them.

Not here: any measuring. Cycles were counted by the test bench, resources estimated by open tools.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...hw import synth
from .backends import EXACT
from .run import Run

RESOURCES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram": "BRAM"}


def facts(run: Run, table: dict[str, Any]) -> dict[str, Any]:
    """fpga.json: the student's making and its range report, `ways` (one for each compiled form:
    on how many rows and random vectors it equals the fixed-point student), hls4ml's
    `default_precision` beside ours, `rtl`, `wave`, `synth` and `vendor`. What was not made is None.
    """
    found = _read(run.path("student") / "fpga.json") | {"part": run.recipe.fpga.part}
    found["ways"] = [_way(run, hop) for hop in table["hops"] if hop["backend"] in EXACT]
    design = _read(run.path("hls") / "design.json") or {}
    found["default_precision"] = design.get("default_precision")
    found["rtl"] = _read(run.path("rtl") / "rtl.json")
    found["wave"] = _read(run.path("rtl") / "wave.json")
    found["synth"] = _read(run.path("synth") / "synth.json")
    found["vendor"] = _read(run.path("synth") / "vendor.json")
    return found


def _way(run: Run, hop: dict[str, Any]) -> dict[str, Any]:
    scored = _read(run.path(f"score-{hop['backend']}") / "score.json")
    return {k: hop[k] for k in ("backend", "rows", "rows_equal", "exact")} | {
        "vectors": scored["random"]["rows"],
        "vectors_equal": scored["random"]["equal"],
    }


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def waveform(wave: dict[str, Any]) -> dict[str, Any]:
    """A wave as rows of spans `{"start", "cycles", "value"}` in which a signal does not change."""
    rows = []
    for name, values in wave["signals"].items():
        edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
        spans = [{"start": a, "cycles": b - a, "value": values[a]} for a, b in pairwise(edges)]
        rows.append({"name": name, "spans": spans})
    return {"cycles": len(values), "rows": rows} | {k: wave[k] for k in ("marked", "answered")}


def resources(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each synthesised device's use of what it has: bars of `{"name", "used", "of", "share"}`."""
    made, clock = found["synth"], found["synth"]["clock"]
    named = {"xcup": found["part"], "ecp5": clock["device"] if clock else "LFE5U-25"}
    devices = []
    for family, part in named.items():
        has = synth.capacity(part)
        if made[family] and has:
            bars = [
                {"name": words, "used": made[family][key], "of": has[key]}
                | {"share": made[family][key] / has[key] if has[key] else 0}
                for key, words in RESOURCES.items()
            ]
            devices.append({"part": part, "bars": bars})
    return devices


def deviation(found: dict[str, Any]) -> float | None:
    """By what share synthesis for xcup has more LUTs than the compiler's cost said."""
    made, rtl = found["synth"], found["rtl"]
    if not (made and made["xcup"] and rtl):
        return None
    return float(made["xcup"]["lut"] / rtl["cost"] - 1)
