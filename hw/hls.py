"""The chip's design: an hls4ml project of the fixed-point student, and its C simulation.

hls4ml picks precisions by itself, and its picks are not exact; here every type comes from the
quantiser, so the simulation must give the quantiser's logits bit for bit. No softmax is on the
chip: its table can change the answer, and the largest logit is the answer anyway.
Not here: RTL, synthesis, timing, area; nothing of a vendor's tool is run.
"""

import ctypes
import json
import math
import os
import shutil
from collections import OrderedDict
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .. import UserError
from . import tools
from .fixed import Fixed, FixedStudent

Strategy = Literal["latency", "distributed_arithmetic"]

NAME = "student"
DEFAULT = "ap_fixed<16,6>"  # what hls4ml takes where it is told nothing
LOG = "csim.log"
LIBRARY = f"firmware/{NAME}-csim.so"
WEIGHTS = "STUDENT_WEIGHTS"  # the variable that tells the library where its weights lie
ABSOLUTE = 'WEIGHTS_DIR="\\"${BASEDIR}/firmware/weights\\""'
UNROLLED = 4096  # weights of a layer: hls4ml's Vitis project partitions no larger array
MULTIPLIERS = 1024  # of a layer above that, which then takes its products in turns
COMPILE_SECONDS = 900

TABLE = "table.npy"  # float32 [tokens, channels]: the embedding that the host looks up

README = """# The student as an FPGA design

An hls4ml project (Vitis backend) for the part {part}: {layers}; {weights} weights in fixed point.
The chip runs this small network; no language model runs on it.

- In: a row of {shape} values, {given}. {host}
- Out: one logit a label, {output}; the largest is the answer. There is no softmax on the chip.
- {types}
- `{library}` is the C simulation, compiled with g++; {log} is what the compiler said.

With Vitis HLS on the path, `vitis-run --mode hls --tcl build_prj.tcl` synthesises it;
`build_opt.tcl` says which steps. No vendor's tool was run so far: there is no figure of area,
timing or power here.
"""
PRECISE = """Every type in `firmware/defines.h` and `firmware/parameters.h` comes from the student;
  sums are wide enough to lose nothing. A sum over positions is a dense layer of ones."""
NUMBERS = "The host gives numbers (of a text: the counts of hashed n-grams)."
LOOKED_UP = (
    "hls4ml has no embedding: the host looks {length} token ids up in `{table}`, and the design "
    "starts after that."
)


def build(
    fixed: FixedStudent,
    folder: Path,
    part: str,
    strategy: Strategy = "latency",
    precise: bool = True,
) -> None:
    """Write the project of `fixed` for `part` into `folder` and compile its C simulation there.

    `distributed_arithmetic`: hls4ml makes shifts and adds of all products; else they are multiplied
    all at once, or in turns where they are too many. Not `precise`: all types are hls4ml's default,
    and the answers are its own; see `default_precision`.

    Raises UserError when g++ is missing or fails, or takes over 15 minutes; its log stays there.
    """
    if not shutil.which("g++"):
        raise UserError(
            "g++ was not found on PATH, and the C simulation of the FPGA design needs it: "
            "install it (Debian: apt install g++) or set fpga.enabled = false."
        )
    if strategy == "distributed_arithmetic" and not find_spec("da4ml"):
        raise UserError(
            "hls4ml's strategy distributed_arithmetic needs the package da4ml: pip install "
            "'da4ml>=0.5.2,<0.6', or keep the strategy latency."
        )
    folder.mkdir(parents=True, exist_ok=True)
    chip = on_chip(fixed)
    with (folder / "hls4ml.log").open("w") as log, redirect_stdout(log):  # it prints its topology
        _write(chip, folder, part, _config(chip, strategy, precise))
    host = NUMBERS
    if fixed.layers[0].kind == "embedding":
        host = LOOKED_UP.format(length=fixed.shape[0], table=TABLE)
        np.save(folder / TABLE, fixed.numbers(0)[0].astype(np.float32))
    design = {"part": part, "shape": fixed.shape, "classes": fixed.shapes[-1][0]}
    design |= {
        "on_host": ["embedding"] if host != NUMBERS else [],
        "layers": _turns(chip, strategy),
    }
    (folder / "design.json").write_text(json.dumps(design) + "\n")
    words = ["×".join(map(str, shape)) for shape in chip.shapes]
    (folder / "README.md").write_text(
        README.format(
            part=part,
            layers=" → ".join(words),
            weights=sum(codes.size for codes in (*chip.weights, *chip.biases)),
            shape=words[0],
            given=chip.given,
            host=host,
            types=PRECISE if precise else f"All types are hls4ml's default, {DEFAULT}: to compare.",
            output=chip.layers[-1].output,
            library=LIBRARY,
            log=LOG,
        )
    )
    compile_simulation(folder)


def _write(fixed: FixedStudent, folder: Path, part: str, config: dict[str, Any]) -> None:
    from hls4ml.converters import convert_from_pytorch_model  # takes seconds to import

    graph = convert_from_pytorch_model(
        _plain(fixed),
        output_dir=str(folder),
        project_name=NAME,
        backend="Vitis",
        part=part,
        io_type="io_parallel",
        hls_config=config,
    )
    graph.write()
    # hls4ml's notes for itself: the torch model with its addresses, and this folder's old path
    (folder / "hls4ml_config.yml").unlink()
    script = folder / "build_lib.sh"
    words = script.read_text()
    for old, new in (
        (graph.config.get_config_value("Stamp"), "csim"),  # else random
        (ABSOLUTE, f"WEIGHTS_DIR='getenv(\"{WEIGHTS}\")'"),  # else the folder could not move
    ):
        if old not in words:
            raise RuntimeError(f"hls4ml wrote a build_lib.sh without {old}: another version?")
        words = words.replace(old, new)
    script.write_text(words)


def on_chip(fixed: FixedStudent) -> FixedStudent:
    """What hls4ml is given: the look-up stays on the host, a sum is a dense layer of ones."""
    given, shapes, parts = fixed.given, fixed.shapes, []
    for at, layer in enumerate(fixed.layers):
        weight, bias = fixed.weights[at], fixed.biases[at]
        if layer.kind == "embedding":
            given, shapes = layer.output, shapes[1:]
            continue
        if layer.kind == "sum":
            length, channels = fixed.shapes[at]
            one = Fixed(1, 1, signed=False)
            weight, bias = np.tile(np.eye(channels), length), np.zeros(channels)
            layer = replace(layer, kind="dense", weight=one, bias=one)
        parts.append((layer, weight, bias))
    return FixedStudent(given, shapes[0], *zip(*parts, strict=True))


def _plain(fixed: FixedStudent) -> nn.Sequential:
    """The quantised weights in the plain torch model that hls4ml reads: channels come first."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for at, layer in enumerate(fixed.layers):
        weight, bias = map(torch.from_numpy, fixed.numbers(at))
        made: nn.Linear | nn.Conv1d
        if layer.kind == "conv":
            outputs, inputs, kernel = weight.shape
            made = nn.Conv1d(inputs, outputs, kernel, layer.stride)
        else:
            if len(fixed.shapes[at]) == 2:
                modules[f"flatten_{at}"] = nn.Flatten()
                weight = weight.unflatten(1, fixed.shapes[at]).transpose(1, 2).flatten(1)
            made = nn.Linear(*weight.shape[::-1])
        made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
        modules[f"{layer.kind}_{at}"] = made
        if layer.relu:
            modules[f"relu_{at}"] = nn.ReLU()
    return nn.Sequential(modules).eval()


def _turns(fixed: FixedStudent, strategy: Strategy) -> list[dict[str, Any]]:
    """Of each layer: all products at once where Vitis can hold them so, else in as few turns as
    fit. Shifts and adds take no turns.
    """
    turns = []
    for weight in fixed.weights:
        inputs = math.prod(weight.shape[1:])
        if strategy == "distributed_arithmetic" or weight.size <= UNROLLED:
            turns.append({"Strategy": strategy.capitalize(), "ReuseFactor": 1})
            continue
        ways = [n for n in range(1, inputs + 1) if inputs % n == 0]
        fitting = [n for n in ways if weight.size // n <= MULTIPLIERS]
        turns.append({"Strategy": "Resource", "ReuseFactor": min(fitting, default=inputs)})
    return turns


def _config(
    fixed: FixedStudent, strategy: Strategy = "latency", precise: bool = True
) -> dict[str, Any]:
    """hls4ml's configuration with a type for everything it could choose one for, or with none."""
    layers: dict[str, Any] = {"input_1": {"Precision": {"result": fixed.given.hls}}}
    for at, (layer, turns) in enumerate(zip(fixed.layers, _turns(fixed, strategy), strict=True)):
        result = layer.total if layer.relu else layer.output
        types = {"weight": layer.weight, "bias": layer.bias, "accum": layer.total, "result": result}
        precision = {name: kind.hls for name, kind in types.items()}
        layers[f"{layer.kind}_{at}"] = {"Precision": precision, **turns}
        if layer.relu:
            layers[f"relu_{at}"] = {"Precision": {"result": layer.output.hls}}
    if not precise:
        for words in layers.values():
            del words["Precision"]
    return {
        "Model": {
            "Precision": DEFAULT,  # a must, used by nothing: each layer has its own
            "ReuseFactor": 1,
            "Strategy": "Latency",
            # the rows have their channels last already; without it hls4ml leaves the weights in
            # torch's order, and the answers are wrong
            "ChannelsLastConversion": "internal",
            "TransposeOutputs": False,
        },
        "LayerName": layers,
        "InputShape": [list(fixed.shape[::-1])],  # torch's: channels first
    }


def default_precision(
    fixed: FixedStudent, folder: Path, part: str, x: np.ndarray
) -> dict[str, float]:
    """What explicit types buy: the same weights in hls4ml's default type, on rows x [n, ...].

    On how many rows any logit, on how many the answer differs from `fixed`'s, and the largest
    difference of a logit. The project stays in `folder`; raises UserError as `build` does.
    """
    build(fixed, folder, part, precise=False)
    wanted, found = fixed.logits(x), CSim(folder).logits(x)
    return {
        "rows": len(x),
        "logits_differ": int((wanted != found).any(1).sum()),
        "answers_differ": int((wanted.argmax(1) != found.argmax(1)).sum()),
        "largest_difference": float(np.abs(wanted - found).max(initial=0)),
    }


def compile_simulation(folder: Path) -> None:
    """Compile the project's C simulation with g++, as `build` does; see there for errors."""
    failure = tools.run(["bash", "build_lib.sh"], folder, folder / LOG, COMPILE_SECONDS)
    if failure:
        lines = (folder / LOG).read_text(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), "no error in its log")
        raise UserError(
            f"The C simulation did not compile: {failure} ({first[:300]}). All of it is in "
            f"{folder / LOG}. Make the student smaller (fpga.hidden, fpga.bins) or free memory."
        )


class CSim:
    """The compiled C simulation in `folder`, as it is there: nothing is converted again."""

    def __init__(self, folder: Path) -> None:
        library = (folder / LIBRARY).resolve()
        if not library.exists():
            raise UserError(f"{library} is missing: build the FPGA design again (trivet run).")
        design = json.loads((folder / "design.json").read_text())
        self.shape, self.classes = tuple(design["shape"]), int(design["classes"])
        self.table = np.load(folder / TABLE) if design["on_host"] else None
        self._run = getattr(ctypes.CDLL(str(library)), f"{NAME}_float")
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._run.restype = None
        # the first call reads the weights, and keeps them
        os.environ[WEIGHTS] = str(library.parent / "weights")
        try:
            self.logits(np.zeros((1, *self.shape)))
        finally:
            del os.environ[WEIGHTS]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Numbers or ids [n, …], as many a row as `shape` has, to float32 [n, classes]."""
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(f"rows of {self.shape} are wanted, the shape is {x.shape}")
        given = x if self.table is None else self.table[x.astype(np.int64)]
        given = np.ascontiguousarray(given, np.float32)
        found = np.empty((len(x), self.classes), np.float32)
        for row, answer in zip(given, found, strict=True):
            self._run(row.ctypes.data, answer.ctypes.data)
        return found
