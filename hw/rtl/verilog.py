"""The network as Verilog, with no vendor's tool: one pipeline that takes a row every cycle.

alkaid turns constant products into shifts and adds, so that no multiplier is left. Its symbolic
arrays are fed here from the network's own codes and types: nothing is traced, so nothing is
guessed.
Not here: the test bench, the simulation of the Verilog (simulation.py), synthesis.
"""

import math
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trivet.hw.errors import DesignError
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.rtl.records import LayerCost, Port, RtlDesign

if TYPE_CHECKING:
    from alkaid.trace import FVArray

NAME = "student"  # of the top module
STAGE_DELAY = 2.5  # nanoseconds between registers, as alkaid estimates them for a fast Xilinx part

CONSTANT = (
    "Layer {at} of the fixed-point network gives the same for every row: too many of its weights "
    "are zero. Train it longer (epochs) or with more bits (weight_bits, activation_bits)."
)


class Estimate(NamedTuple):
    """What alkaid expects of a design: LUTs, and cycles from a row to its logits."""

    cost: float
    cycles: int


def symbolic_layers(fixed: FixedNetwork) -> tuple["FVArray", list["FVArray"]]:
    """The symbolic input, and what each layer makes of it, exactly as FixedNetwork does.

    Raises DesignError when a layer gives the same for every row: alkaid cannot answer some such.
    """
    from alkaid.trace import FVArray

    step = 2.0**-fixed.input_type.fraction
    low, high = fixed.input_type.low * step, fixed.input_type.high * step
    if fixed.layers[0].kind == "embedding":
        high = 2.0 ** (len(fixed.weights[0]) - 1).bit_length() - 1  # all that the port can hold
    shape = np.ones(fixed.shape)
    x = FVArray.from_lhs(low * shape, high * shape, step * shape)
    values, outputs = x, []
    for at, layer in enumerate(fixed.layers):
        weight, bias = fixed.parameters(at)
        if layer.accum.fraction > layer.output.fraction:
            bias += 2.0 ** -(layer.output.fraction + 1)  # half a step: rounding down now rounds
        if layer.kind == "dense":
            values = _product(at, values.reshape(-1), weight.T) + bias
        elif layer.kind == "conv":
            channels, _, kernel = weight.shape
            starts = range(0, len(values) - kernel + 1, layer.stride)
            windows = np.stack([values[start : start + kernel].reshape(-1) for start in starts])
            matrix = weight.transpose(2, 1, 0).reshape(-1, channels)
            values = _product(at, windows, matrix) + bias
        elif layer.kind == "embedding":
            # an id beyond the table, which no row has, finds zeros
            tables = np.pad(weight, ((0, int(high) + 1 - len(weight)), (0, 0))).T
            rows = [[one.lookup(table) for table in tables] for one in np.asarray(values)]
            values = FVArray(np.array(rows))
        else:
            values = np.sum(values, axis=0)
        signed, integer, _ = values.kif  # wider would cost constants their last bits
        fraction = layer.output.fraction
        values = values.quantize(signed, np.maximum(integer, -fraction), fraction, "WRAP", "TRN")
        if layer.relu:
            values = values.relu()
        values = _saturate(values, layer.output)
        if values.collapsed:
            raise DesignError(CONSTANT.format(at=at))
        outputs.append(values)
    return x, outputs


def _product(at: int, values: "FVArray", matrix: np.ndarray) -> "FVArray":
    moving = [one.low < one.high for one in np.asarray(values).reshape(-1, len(matrix))[0]]
    if not matrix[moving].any():
        raise DesignError(CONSTANT.format(at=at))
    return values @ matrix


def _saturate(values: "FVArray", kind: Fixed) -> "FVArray":
    """Numbers of the fraction of `kind`, held in its range.

    Where nothing is negative, any bit too high sets all others: alkaid's own way is a subtraction.
    """
    from alkaid.trace import FVArray

    integer = kind.integer - kind.signed
    saturated = np.empty(values.shape, object)
    for at, number in np.ndenumerate(np.asarray(values)):
        top = int(number.kif[1])
        limited = number.quantize(kind.signed, integer, kind.fraction, "SAT", "TRN")
        if number.low >= 0 and top > integer and number.low != number.high:
            over = number.quantize(0, top, -integer, "WRAP", "TRN").unary_bit_op("any")
            low = number.quantize(0, integer, kind.fraction, "WRAP", "TRN")
            limited = over.msb_mux(kind.high * 2.0**-kind.fraction, low)
        saturated[at] = limited
    return FVArray(saturated, values.solver_options)


def estimate(fixed: FixedNetwork) -> Estimate:
    """LUTs as alkaid counts them, and cycles to the answer, of a design that is not written."""
    from alkaid.trace import trace

    x, outputs = symbolic_layers(fixed)
    program = trace(x, outputs[-1])
    # a register before the first stage, and one after each
    return Estimate(float(program.cost), max(1, math.ceil(program.latency[1] / STAGE_DELAY)) + 1)


def write(
    fixed: FixedNetwork,
    folder: Path,
    part: str = "xcku5p-ffvb676-2-e",
    max_cycles: int = 12,
    clock_ns: float = 10.0,
) -> RtlDesign:
    """Compile and write the Verilog alone: its ports, and what alkaid estimates of it.

    As many pipeline stages as keep each under STAGE_DELAY, but no answer later than `max_cycles`
    after its row. `clock_ns` and `part` only go to the vendors' scripts.
    """
    from alkaid.codegen import RTLModel
    from alkaid.trace import trace

    if max_cycles < 2:
        raise DesignError(
            "rows and logits are kept in registers, which takes two cycles: allow 2 or more.",
            parameter="max_cycles",
            value=max_cycles,
        )
    started = time.perf_counter()
    x, outputs = symbolic_layers(fixed)
    programs = [trace(x, values) for values in outputs]
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
    out = model.fsm.out_signals[0]
    return RtlDesign(
        input_type=fixed.input_type,
        shape=fixed.shape,
        x=_port(model.fsm.inp_signals[0]),
        logits=_port(out),
        cycles=out.schedule.bias,
        promised_cycles=out.schedule.bias,
        stages=stages,
        cost=programs[-1].cost,
        layers=tuple(
            LayerCost(layer=f"{layer.kind}_{at}", cost=float(cost))
            for at, (layer, cost) in enumerate(zip(fixed.layers, costs, strict=True))
        ),
        register_bits=model.reg_bits,
        delay=delay,
        versions={"alkaid": version("alkaid")},
        seconds={"compile": time.perf_counter() - started},
    )


def _port(signal: Any) -> Port:
    """A port of the wrapper, whose fields are all as wide as the widest needs."""
    signed, integer, fraction = map(int, np.max(signal.precisions, axis=0))
    return Port(signal.size, bool(signed), signed + integer + fraction, fraction)
