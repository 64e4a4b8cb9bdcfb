"""A vendor's own tools, where the user has them: run on the project, their report beside ours.

Vitis HLS synthesizes the hls4ml project; Vivado and Quartus place and route the Verilog with the
scripts that lie beside it. hls4ml and alkaid know the format of the reports and read them.
None of these tools was there when this was written: the readers were tested on files in the format
of the reports, the running with stand-ins. The report says so too.
Not here: licences, boards, bitstreams; which tool is right (open_tools.py has the open ones).
"""

import re
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from trivet.hw import tools
from trivet.hw.errors import DesignError, ToolError
from trivet.hw.synth.records import VendorArea, VendorReport

NOTE = (
    "Read from the vendor's report. Trivet was never run with a real vendor tool: the readers "
    "were tested on files in the format of the reports only."
)
SECONDS = 4 * 3600
TOP = "student"
SYNTHESIS_ONLY = (
    "array set opt {reset 1 csim 0 synth 1 cosim 0 validation 0 export 0 vsynth 0 fifo_opt 0}\n"
)


def present() -> bool:
    """Whether any vendor's tool is on PATH."""
    return any(shutil.which(words[0]) for commands, _ in TOOLS.values() for words in commands)


def run(hls: Path | None, verilog: Path | None, timeout: float = SECONDS) -> VendorReport:
    """Run each tool that is on PATH, on the hls4ml project `hls` or the RTL folder `verilog`.

    A tool is killed after `timeout` seconds. Logs and the tools' own reports stay in the folders.
    """
    reports: dict[str, VendorArea] = {}
    failures: dict[str, str] = {}
    missing = []
    for name, (commands, read) in TOOLS.items():
        folder = hls if name == "vitis" else verilog
        command = next((words for words in commands if shutil.which(words[0])), None)
        if command is None:
            missing.append(commands[0][0])
        elif folder is not None:
            try:
                reports[name] = _report(name, command, folder, read, timeout)
            except DesignError as error:
                failures[name] = str(error)
    return VendorReport(note=NOTE, failures=failures, missing=tuple(missing), **reports)


def _report(
    name: str,
    command: list[str],
    folder: Path,
    read: Callable[[Path], dict[str, Any]],
    timeout: float,
) -> VendorArea:
    script = folder / command[-1]
    if not script.exists():
        raise DesignError(f"{script} is missing: build the design again.")
    part = re.search(r'set device "(.*)"', script.read_text())
    if part and part[1].startswith("xc") == (name == "quartus"):
        raise DesignError(
            f"{script} is for the part {part[1]}, which is not of this tool's vendor."
        )
    if name == "vitis":
        (folder / "build_opt.tcl").write_text(SYNTHESIS_ONLY)
    started, log = time.perf_counter(), folder / f"{name}.log"
    try:
        tools.run(command, folder, log, timeout)
    except ToolError as error:
        raise ToolError(f"{error}; {log} has what it said.") from error
    try:
        with redirect_stdout(StringIO()):  # the readers print what they miss
            figures = read(folder)
        seconds = round(time.perf_counter() - started, 1)
        return VendorArea.model_validate(figures | {"seconds": seconds})
    except (OSError, LookupError, AssertionError, TypeError, ValueError, AttributeError) as error:
        raise ToolError(
            f"The report of {name} in {folder} was not understood: {error!r}"
        ) from error


def _vitis(folder: Path) -> dict[str, Any]:
    """C synthesis only: an estimate before any logic was mapped."""
    from hls4ml.report import parse_vivado_report

    report = parse_vivado_report(str(folder))["CSynthesisReport"]
    return {
        "lut": int(report["LUT"]),
        "ff": int(report["FF"]),
        "dsp": int(report["DSP"]),
        "bram": int(report["BRAM_18K"]) / 2,
        "mhz": round(1000 / float(report["EstimatedClockPeriod"]), 1),
        "cycles": int(report["WorstLatency"]),
        "interval": int(report["IntervalMax"]),
        "tool": "Vitis HLS, C synthesis",
    }


def _vivado(folder: Path) -> dict[str, Any]:
    """After routing, out of context."""
    from alkaid._cli import report

    files = folder / f"output_{TOP}" / "reports"
    text = (files / f"{TOP}_post_route_util.rpt").read_text()
    used = report.parse_utilization_vivado(text)
    timing = (files / f"{TOP}_post_route_timing.rpt").read_text()
    slack = report.parse_timing_summary_vivado(timing)["WNS(ns)"]
    period = report.parse_clock_period_constraint(folder / "src" / f"{TOP}.xdc", "XDC")
    return {
        "lut": used["LUT as Logic"],
        "lut_ram": used["LUT as Memory"],
        "ff": used["FF"],
        "carry": used["CARRY8"],
        "dsp": used["DSPs"],
        "bram": used["Block RAM Tile"],
        "mhz": round(1000 / (period - slack), 1),
        "tool": _version(r"Tool Version : (Vivado v\.\S+)", text),
    }


def _quartus(folder: Path) -> dict[str, Any]:
    """After fitting; `lut` are ALUTs, of which an ALM has two."""
    from alkaid._cli import report

    files = folder / f"output_{TOP}" / "reports"
    text = (files / f"{TOP}.fit.rpt").read_text()
    used = report.parse_utilization_quartus(text)
    timing = report.parse_timing_quartus((files / f"{TOP}.sta.rpt").read_text())
    return {
        "lut": used["LUT"],
        "alm": used["ALM"],
        "ff": used["FF"],
        "dsp": used["DSP"],
        "bram": used["RAM Blocks"],
        "mhz": timing["Fmax(MHz)"],
        "tool": "Quartus Prime " + _version(r"Quartus Prime Version\s*; (\S+)", text),
    }


def _version(pattern: str, report: str) -> str:
    match = re.search(pattern, report)
    return match[1] if match else "of an unknown version"


TOOLS: dict[str, tuple[list[list[str]], Callable[[Path], dict[str, Any]]]] = {
    "vitis": (
        [
            ["vitis-run", "--mode", "hls", "--tcl", "build_prj.tcl"],
            ["vitis_hls", "-f", "build_prj.tcl"],
        ],
        _vitis,
    ),
    "vivado": ([["vivado", "-mode", "batch", "-source", "build_vivado_prj.tcl"]], _vivado),
    "quartus": ([["quartus_sh", "-t", "build_quartus_prj.tcl"]], _quartus),
}
