"""The chip's design: an hls4ml project of the fixed-point network.

hls4ml picks precisions by itself, and its picks are not exact; here every type comes from the
quantizer, so the simulation must give the quantizer's logits bit for bit. No softmax is on the
chip: its table can change the answer, and the largest logit is the answer anyway.
Not here: RTL, synthesis, timing, area; nothing of a vendor's tool is run.
"""

import math
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

from trivet.hw.errors import ToolError
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.hls.records import DEFAULT, DefaultPrecision, HlsDesign, LayerStrategy
from trivet.hw.hls.simulation import (
    LIBRARY,
    LOG,
    NAME,
    TABLE,
    WEIGHTS,
    CSim,
    compile_simulation,
)

Strategy = Literal["latency", "distributed_arithmetic"]

ABSOLUTE = 'WEIGHTS_DIR="\\"${BASEDIR}/firmware/weights\\""'
UNROLLED = 4096  # weights of a layer: hls4ml's Vitis project partitions no larger array
MULTIPLIERS = 1024  # of a layer above that, which then takes its products in turns

README = """# The student as an FPGA design

An hls4ml project (Vitis backend) for the part {part}: {layers}; {weights} weights in fixed point.
The chip runs this small network; no language model runs on it.

- In: a row of {shape} values, {input_type}. {host}
- Out: one logit a label, {output}; the largest is the answer. There is no softmax on the chip.
- {types}
- `{library}` is the C simulation, compiled with g++; {log} is what the compiler said.

With Vitis HLS on the path, `vitis-run --mode hls --tcl build_prj.tcl` synthesizes it;
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
    fixed: FixedNetwork,
    folder: Path,
    part: str,
    strategy: Strategy = "latency",
    precise: bool = True,
) -> HlsDesign:
    """Write the project of `fixed` for `part` into `folder` and compile its C simulation there.

    `distributed_arithmetic`: hls4ml makes shifts and adds of all products; else they are multiplied
    all at once, or in turns where they are too many. Not `precise`: all types are hls4ml's default,
    and the answers are its own; see `default_precision`. Returns what design.json says.

    Raises ToolError when g++ is missing or fails, or takes over 15 minutes; its log stays there.
    """
    if not shutil.which("g++"):
        raise ToolError(
            "g++ was not found on PATH, and the C simulation of the FPGA design needs it: "
            "install it (Debian: apt install g++)."
        )
    if strategy == "distributed_arithmetic" and not find_spec("da4ml"):
        raise ToolError(
            "hls4ml needs the package da4ml for it: pip install 'da4ml>=0.5.2,<0.6', or keep the "
            "strategy latency.",
            parameter="strategy",
            value=strategy,
        )
    folder.mkdir(parents=True, exist_ok=True)
    chip = on_chip(fixed)
    with (folder / "hls4ml.log").open("w") as log, redirect_stdout(log):  # it prints its topology
        write_sources(chip, folder, part, strategy, precise)
    looks_up = fixed.layers[0].kind == "embedding"
    if looks_up:
        np.save(folder / TABLE, fixed.parameters(0)[0].astype(np.float32))
    design = HlsDesign(
        part=part,
        shape=fixed.shape,
        classes=fixed.shapes[-1][0],
        on_host=("embedding",) if looks_up else (),
        layers=tuple(_strategies(chip, strategy)),
    )
    design.write(folder)
    host = LOOKED_UP.format(length=fixed.shape[0], table=TABLE) if looks_up else NUMBERS
    (folder / "README.md").write_text(_readme(chip, part, host, precise))
    compile_simulation(folder)
    return design


def _readme(chip: FixedNetwork, part: str, host: str, precise: bool) -> str:
    sizes = ["×".join(map(str, shape)) for shape in chip.shapes]
    return README.format(
        part=part,
        layers=" → ".join(sizes),
        weights=sum(codes.size for codes in (*chip.weights, *chip.biases)),
        shape=sizes[0],
        input_type=chip.input_type,
        host=host,
        types=PRECISE if precise else f"All types are hls4ml's default, {DEFAULT}: to compare.",
        output=chip.layers[-1].output,
        library=LIBRARY,
        log=LOG,
    )


def write_sources(
    chip: FixedNetwork,
    folder: Path,
    part: str,
    strategy: Strategy = "latency",
    precise: bool = True,
) -> None:
    """Let hls4ml write the sources of what `on_chip` gave, the same bytes each time."""
    from hls4ml.converters import convert_from_pytorch_model  # takes seconds to import

    graph = convert_from_pytorch_model(
        _torch_model(chip),
        output_dir=str(folder),
        project_name=NAME,
        backend="Vitis",
        part=part,
        io_type="io_parallel",
        hls_config=_config(chip, strategy, precise),
    )
    graph.write()
    # hls4ml's notes for itself: the torch model with its addresses, and this folder's old path
    (folder / "hls4ml_config.yml").unlink()
    script = folder / "build_lib.sh"
    text = script.read_text()
    for old, new in (
        (graph.config.get_config_value("Stamp"), "csim"),  # else random
        (ABSOLUTE, f"WEIGHTS_DIR='getenv(\"{WEIGHTS}\")'"),  # else the folder could not move
    ):
        if old not in text:
            raise RuntimeError(f"hls4ml wrote a build_lib.sh without {old}: another version?")
        text = text.replace(old, new)
    script.write_text(text)


def on_chip(fixed: FixedNetwork) -> FixedNetwork:
    """What hls4ml is given: the look-up stays on the host, a sum is a dense layer of ones."""
    input_type, shapes, parts = fixed.input_type, fixed.shapes, []
    for at, layer in enumerate(fixed.layers):
        weight, bias = fixed.weights[at], fixed.biases[at]
        if layer.kind == "embedding":
            input_type, shapes = layer.output, shapes[1:]
            continue
        if layer.kind == "sum":
            length, channels = fixed.shapes[at]
            one = Fixed(1, 1, signed=False)
            weight, bias = np.tile(np.eye(channels), length), np.zeros(channels)
            layer = replace(layer, kind="dense", weight=one, bias=one)
        parts.append((layer, weight, bias))
    return FixedNetwork(input_type, shapes[0], *zip(*parts, strict=True))


def _torch_model(chip: FixedNetwork) -> nn.Sequential:
    """The quantized weights in the plain torch model that hls4ml reads: channels come first."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for at, layer in enumerate(chip.layers):
        weight, bias = map(torch.from_numpy, chip.parameters(at))
        module: nn.Linear | nn.Conv1d
        if layer.kind == "conv":
            outputs, inputs, kernel = weight.shape
            module = nn.Conv1d(inputs, outputs, kernel, layer.stride)
        else:
            if len(chip.shapes[at]) == 2:
                modules[f"flatten_{at}"] = nn.Flatten()
                weight = weight.unflatten(1, chip.shapes[at]).transpose(1, 2).flatten(1)
            module = nn.Linear(*weight.shape[::-1])
        module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
        modules[f"{layer.kind}_{at}"] = module
        if layer.relu:
            modules[f"relu_{at}"] = nn.ReLU()
    return nn.Sequential(modules).eval()


def _strategies(chip: FixedNetwork, strategy: Strategy) -> list[LayerStrategy]:
    """Of each layer: all products at once where Vitis can hold them so, else in as few turns as
    fit. Shifts and adds take no turns.
    """
    layers = []
    for weight in chip.weights:
        inputs = math.prod(weight.shape[1:])
        if strategy == "distributed_arithmetic" or weight.size <= UNROLLED:
            layers.append(LayerStrategy(strategy=strategy.capitalize(), reuse_factor=1))
            continue
        factors = [n for n in range(1, inputs + 1) if inputs % n == 0]
        fitting = [n for n in factors if weight.size // n <= MULTIPLIERS]
        turns = min(fitting, default=inputs)
        layers.append(LayerStrategy(strategy="Resource", reuse_factor=turns))
    return layers


def _config(chip: FixedNetwork, strategy: Strategy, precise: bool) -> dict[str, Any]:
    """hls4ml's configuration with a type for everything it could choose one for, or with none."""
    layers: dict[str, Any] = {"input_1": {"Precision": {"result": chip.input_type.hls}}}
    strategies = _strategies(chip, strategy)
    for at, (layer, turns) in enumerate(zip(chip.layers, strategies, strict=True)):
        result = layer.accum if layer.relu else layer.output
        types = {"weight": layer.weight, "bias": layer.bias, "accum": layer.accum, "result": result}
        precision = {name: kind.hls for name, kind in types.items()}
        layers[f"{layer.kind}_{at}"] = {"Precision": precision, **turns.model_dump(by_alias=True)}
        if layer.relu:
            layers[f"relu_{at}"] = {"Precision": {"result": layer.output.hls}}
    if not precise:
        for settings in layers.values():
            del settings["Precision"]
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
        "InputShape": [list(chip.shape[::-1])],  # torch's: channels first
    }


def default_precision(
    fixed: FixedNetwork, folder: Path, part: str, x: np.ndarray
) -> DefaultPrecision:
    """What explicit types buy: the same weights in hls4ml's default type, on rows x [n, ...].

    The project stays in `folder`; raises ToolError as `build` does.
    """
    build(fixed, folder, part, precise=False)
    exact, other = fixed.logits(x), CSim(folder).logits(x)
    return DefaultPrecision(
        rows=len(x),
        logits_differ=int((exact != other).any(1).sum()),
        answers_differ=int((exact.argmax(1) != other.argmax(1)).sum()),
        largest_difference=float(np.abs(exact - other).max(initial=0)),
    )
