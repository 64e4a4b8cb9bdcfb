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
import signal
import subprocess
from collections import OrderedDict
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import UserError
from .fixed import FixedStudent

NAME = "student"
LOG = "csim.log"
LIBRARY = f"firmware/{NAME}-csim.so"
WEIGHTS = "STUDENT_WEIGHTS"  # the variable that tells the library where its weights lie
ABSOLUTE = 'WEIGHTS_DIR="\\"${BASEDIR}/firmware/weights\\""'
UNROLLED = 4096  # weights of a layer: hls4ml's Vitis project partitions no larger array
MULTIPLIERS = 1024  # of a layer above that, which then takes its products in turns
COMPILE_SECONDS = 900

README = """# The distilled student as an FPGA design

An hls4ml project (Vitis backend) for the part {part}: {sizes}, {weights} weights in fixed point.
The chip runs this distilled student, not the language model that taught it.

- In: one count of hashed words, word pairs and letter trigrams a bin, {given}; the host counts.
- Out: one logit a label, {output}; the largest is the answer. There is no softmax on the chip.
- Every type in `firmware/defines.h` and `firmware/parameters.h` comes from the trained student;
  sums are wide enough to lose nothing.
- `{library}` is the C simulation, compiled with g++; {log} is what the compiler said.

With Vitis HLS on the path, `vitis-run --mode hls --tcl build_prj.tcl` synthesises it;
`build_opt.tcl` says which steps. No vendor's tool was run so far: there is no figure of area,
timing or power here.
"""


def build(fixed: FixedStudent, folder: Path, part: str) -> None:
    """Write the project of `fixed` for `part` into `folder` and compile its C simulation there.

    Raises UserError when g++ is missing or fails, or takes over 15 minutes; its log stays there.
    """
    if not shutil.which("g++"):
        raise UserError(
            "g++ was not found on PATH, and the C simulation of the FPGA design needs it: "
            "install it (Debian: apt install g++) or set fpga.enabled = false."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "hls4ml.log").open("w") as log, redirect_stdout(log):  # it prints its topology
        _write(fixed, folder, part)
    sizes = [math.prod(shape) for shape in fixed.shapes]
    (folder / "design.json").write_text(
        json.dumps(
            {"part": part, "sizes": sizes, "layers": [parallel(i, o) for i, o in pairwise(sizes)]}
        )
        + "\n"
    )
    (folder / "README.md").write_text(
        README.format(
            part=part,
            sizes=" → ".join(map(str, sizes)),
            weights=sum(w.size + b.size for w, b in zip(fixed.weights, fixed.biases, strict=True)),
            given=fixed.given,
            output=fixed.layers[-1].output,
            library=LIBRARY,
            log=LOG,
        )
    )
    compile_simulation(folder)


def _write(fixed: FixedStudent, folder: Path, part: str) -> None:
    from hls4ml.converters import convert_from_pytorch_model  # takes seconds to import

    graph = convert_from_pytorch_model(
        _plain(fixed),
        output_dir=str(folder),
        project_name=NAME,
        backend="Vitis",
        part=part,
        io_type="io_parallel",
        hls_config=_config(fixed),
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


def _plain(fixed: FixedStudent) -> nn.Sequential:
    """The quantised weights in the plain torch model that hls4ml reads."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for at, layer in enumerate(fixed.layers):
        weight, bias = map(torch.from_numpy, fixed.numbers(at))
        outputs, inputs = weight.shape
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        linear.weight.data, linear.bias.data = weight, bias
        modules[f"dense_{at}"] = linear
        if layer.relu:
            modules[f"relu_{at}"] = nn.ReLU()
    return nn.Sequential(modules).eval()


def parallel(inputs: int, outputs: int) -> dict[str, Any]:
    """All products of a layer at once where Vitis can hold them so, else in as few turns as fit."""
    if inputs * outputs <= UNROLLED:
        return {"Strategy": "Latency", "ReuseFactor": 1}
    turns = [n for n in range(1, inputs + 1) if inputs % n == 0]
    fitting = [n for n in turns if inputs * outputs // n <= MULTIPLIERS]
    return {"Strategy": "Resource", "ReuseFactor": min(fitting, default=inputs)}


def _config(fixed: FixedStudent) -> dict[str, Any]:
    """hls4ml's configuration with a type for everything it could choose one for."""
    layers: dict[str, Any] = {"input_1": {"Precision": {"result": fixed.given.hls}}}
    for at, layer in enumerate(fixed.layers):
        result = layer.total if layer.relu else layer.output
        types = {"weight": layer.weight, "bias": layer.bias, "accum": layer.total, "result": result}
        layers[f"dense_{at}"] = {
            "Precision": {name: kind.hls for name, kind in types.items()},
            **parallel(*fixed.weights[at].shape[::-1]),
        }
        if layer.relu:
            layers[f"relu_{at}"] = {"Precision": {"result": layer.output.hls}}
    return {
        "Model": {
            "Precision": "ap_fixed<1,1>",  # a must, used by nothing: each layer has its own
            "ReuseFactor": 1,
            "Strategy": "Latency",
            # without it hls4ml leaves the weights in torch's order, and the answers are wrong
            "ChannelsLastConversion": "full",
            "TransposeOutputs": False,
        },
        "LayerName": layers,
        "InputShape": [list(fixed.shape)],
    }


def compile_simulation(folder: Path) -> None:
    """Compile the project's C simulation with g++, as `build` does; see there for errors."""
    with (folder / LOG).open("w") as log:
        process = subprocess.Popen(
            ["bash", "build_lib.sh"], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            failure = f"g++ failed with {code}" if (code := process.wait(COMPILE_SECONDS)) else ""
        except subprocess.TimeoutExpired:
            failure = f"g++ was stopped after {COMPILE_SECONDS} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
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
        sizes = json.loads((folder / "design.json").read_text())["sizes"]
        self.bins, self.classes = sizes[0], sizes[-1]
        self._run = getattr(ctypes.CDLL(str(library)), f"{NAME}_float")
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._run.restype = None
        # the first call reads the weights, and keeps them
        os.environ[WEIGHTS] = str(library.parent / "weights")
        try:
            self.logits(np.zeros((1, self.bins), np.uint8))
        finally:
            del os.environ[WEIGHTS]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """uint8 [n, bins] to float32 [n, classes]."""
        if x.ndim != 2 or x.shape[1] != self.bins:
            raise ValueError(f"rows of {self.bins} counts are wanted, the shape is {x.shape}")
        given = np.ascontiguousarray(x, np.float32)
        found = np.empty((len(x), self.classes), np.float32)
        for row, answer in zip(given, found, strict=True):
            self._run(row.ctypes.data, answer.ctypes.data)
        return found
