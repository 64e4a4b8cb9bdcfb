"""What is known of the kernels without a GPU, gathered into one record.

    error     = ‖ours − truth‖ / ‖eager − truth‖, worst over shapes and dtypes (interpreted)
    modelled  = bytes to and from DRAM by meter.py's L2 model; compulsory = each of the layer's
                inputs read once and each of its outputs written once
    registers, spills, matrix instructions: offline.py

The figures depend on the kernels, torch's and Triton's versions and the seed, not on the machine.

Not covered: time. bench.py measures it where there is a GPU.
"""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from . import offline, peers, spec
from .dry import walking
from .lora_launch import launch_backward, launch_forward
from .meter import Meter
from .nf4 import NF4
from .peers import Moved, Shape
from .spec import Kernel
from .weight import Weight

TARGET = "sm_90"  # the meter's model is an H100's
SHAPES = (Shape(8192, 4096, 4096), Shape(8192, 4096, 14336), Shape(256, 4096, 4096))
DIRECTIONS = ("forward", "backward")
SEED = 0
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # of an element of W, its doubly quantised scale with it

Row = dict[str, Any]
Progress = Callable[[float], None]


def collect(progress: Progress = lambda share: None, shapes: tuple[Shape, ...] = SHAPES) -> Row:
    """Lists of rows: "kernels", "faults", "errors", "traffic"; "versions". Takes minutes."""
    made = offline.compile_all(progress=lambda share: progress(0.4 * share))
    found = errors(lambda share: progress(0.4 + 0.2 * share))
    moved = traffic(shapes, residency(made), lambda share: progress(0.6 + 0.4 * share))
    return {
        "kernels": [dataclasses.asdict(c) for c in made],
        "faults": [fault for c in made for fault in offline.faults(c)],
        "errors": found,
        "traffic": moved,
        "versions": {"torch": torch.__version__.split("+")[0], "triton": _triton()},
    }


def residency(made: list[offline.Compiled]) -> dict[tuple[str, str], int]:
    """Programs that an SM holds at once, by kernel and tile, of its first variant: the plain layer,
    which is the one that `ours` meters."""
    found: dict[tuple[str, str], int] = {}
    for c in made:
        if c.target == TARGET and not c.failure:
            found.setdefault((c.kernel, c.tile), c.resident)
    return found


def errors(progress: Progress = lambda share: None, only: tuple[str, ...] = ()) -> list[Row]:
    """Each operator's worst error ratio over three shapes and its dtypes, in an interpreter.

    `only`: these operators.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trivet.kernels.evidence", *only],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    found, count = [], len(only or spec.ops())
    for line in process.stdout or ():
        found.append(json.loads(line))
        progress(len(found) / count)
    if process.wait():
        raise RuntimeError(f"the interpreter ended with {process.returncode}; its words are above")
    return found


def _interpret() -> None:
    """The worker of `errors`: one JSON line for each operator."""
    torch.set_num_threads(1)
    np.seterr(all="ignore")  # infinities are among the inputs
    for op in spec.ops():
        if sys.argv[1:] and op.name not in sys.argv[1:]:
            continue
        worst: Row = {"op": op.name, "ratio": -1.0}
        for number in range(3):
            # later sizes first: they are the larger ones, where rounding errors add up
            dims = {
                name: sizes[-1 - (number * (1 + place)) % len(sizes)]
                for place, (name, sizes) in enumerate(op.dims.items())
            }
            for dtype in op.dtypes:
                ratio = equal(op, dims, dtype) if op.error == 0 else None
                ratio = spec.error_ratio(op, dims, dtype, SEED) if ratio is None else ratio
                if ratio > worst["ratio"]:
                    worst |= {"ratio": ratio, "dims": dims, "dtype": str(dtype).split(".")[1]}
        print(
            json.dumps(worst | {"bound": op.error, "launches": op.launches, "seed": SEED}),
            flush=True,
        )


def equal(op: spec.Op, dims: spec.Dims, dtype: torch.dtype) -> float:
    """0 when an operator whose bytes are promised keeps the promise, else infinity."""
    case = op.case(dims, dtype, SEED)
    same = all(map(torch.equal, case.ours(), case.eager()))
    return 0.0 if same else float("inf")


def traffic(
    shapes: tuple[Shape, ...] = SHAPES,
    resident: dict[tuple[str, str], int] | None = None,
    progress: Progress = lambda share: None,
) -> list[Row]:
    """Launches and bytes of our layer (modelled) and of others (the least that they can move)."""
    rows: list[Row] = []
    todo = [
        Job(at, way, resident or {}, quantised)
        for quantised in (False, True)
        for at in shapes
        for way in DIRECTIONS
        if not quantised or at.N == at.K  # NF4 is slow to walk: not at the largest shape
    ]
    made: list[Moved] = []
    # spawned: a forked child would inherit torch's threads in whatever state they are
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for moved in pool.map(_ours, todo):
            made.append(moved)
            progress(len(made) / len(todo))
    for job, moved in zip(todo, made, strict=True):
        name = "ours, NF4" if job.quantised else "ours"
        rows.append(_row(job.at, job.way, name, moved, job.quantised))
    for job, moved in zip(todo, made, strict=True):
        if not job.quantised:
            rows.append(_row(job.at, job.way, "ours, NF4 split", split(job.at, moved), True))
    for at in shapes:
        for name, peer in (peers.PEERS | peers.QUANTISED_PEERS).items():
            quantised = name in peers.QUANTISED_PEERS
            for way, moved in zip(DIRECTIONS, peer(at), strict=True):
                rows.append(_row(at, way, name, moved, quantised))
    return rows


def _row(at: Shape, way: str, who: str, moved: Moved, quantised: bool) -> Row:
    least = compulsory(at, way, quantised)
    return {
        "shape": str(at),
        "direction": way,
        "layer": who,
        "quantised": quantised,
        **dataclasses.asdict(moved),
        "compulsory": least,
        "ratio": moved.bytes / least,
        "flops": flops(at, way),
    }


def split(at: Shape, dense: Moved) -> Moved:
    """Our dense layer after a launch that makes W 16-bit, as roofline.py has it for many rows."""
    return Moved(dense.launches + 1, dense.bytes + int(at.N * at.K * (NF4_BYTES + 2)), dense.saved)


def compulsory(at: Shape, way: str, quantised: bool = False) -> int:
    """Bytes of the layer's inputs and outputs: 16-bit activations, 32-bit adapters."""
    weight = at.N * at.K * (NF4_BYTES if quantised else 2)
    adapters = 4 * at.R * (at.K + at.N)
    activations = 2 * at.M * (at.K + at.N)
    if way == "forward":  # x, W, A, B -> y
        return int(activations + weight + adapters)
    return int(activations + 2 * at.M * at.K + weight + 2 * adapters)  # and dx, dA, dB


def flops(at: Shape, way: str) -> int:
    """Of the formula: the base's product once, the adapter's two; backward two more for dA, dB."""
    low = 2 * at.M * at.R * (at.K + at.N)
    return 2 * at.M * at.N * at.K + (low if way == "forward" else 2 * low)


def ours(
    at: Shape, way: str, resident: dict[tuple[str, str], int], quantised: bool = False
) -> Moved:
    """Our LoRA layer in 16 bits, with 32-bit adapters and perhaps W in NF4, walked through."""

    def fits(kernel: Kernel) -> int:
        return resident.get((kernel.name, offline.described(kernel.tile(TARGET))), 1)

    x, dy = at.meta(at.M, at.K), at.meta(at.M, at.N)
    w = Weight.of(_nf4(at) if quantised else at.meta(at.N, at.K))
    a, b = (at.meta(*s, dtype=torch.float32) for s in ((at.R, at.K), (at.N, at.R)))
    h = at.meta(at.M, at.R)
    with spec.on(TARGET), walking(Meter(resident=fits)) as meter:
        if way == "forward":
            launch_forward(x, w, None, a, b, None, 2.0, 0.0, SEED)
        else:
            launch_backward(dy, x, w, None, a, b, None, h, None, 2.0, 0.0, SEED)
    total = meter.total
    saved = peers.nbytes(h) if way == "forward" else 0
    return Moved(total.launches, total.modelled, saved)


def _nf4(at: Shape) -> NF4:
    """W in NF4 with double quantisation, as bitsandbytes' defaults make it."""
    blocks = at.N * at.K // 64
    sizes = {"code": 256, "absmax2": blocks // 256, "offset": 1}
    state = {name: at.meta(size, dtype=torch.float32) for name, size in sizes.items()}
    packed, absmax = (at.meta(n, dtype=torch.uint8) for n in (at.N * at.K // 2, blocks))
    return NF4(packed, absmax, (at.N, at.K), 64, **state)


class Job(NamedTuple):
    """What a worker of `traffic` walks through."""

    at: Shape
    way: str
    resident: dict[tuple[str, str], int]
    quantised: bool


def _ours(job: Job) -> Moved:
    torch.set_num_threads(1)
    return ours(*job)


def summary(found: Row) -> list[Row]:
    """One row for each operator and kernel, worst over variants; what the table shows."""
    by_op = {row["op"]: row for row in found["errors"]}
    names_of = {"ours": "lora_linear", "ours, NF4": "qlora_linear nf4"}
    layers = {  # at the first shape
        (names_of[r["layer"]], r["direction"]): r["ratio"]
        for r in reversed(found["traffic"])
        if r["layer"] in names_of
    }
    rows: list[Row] = []
    shown: set[tuple[str, str]] = set()
    for op in spec.ops():
        error = by_op[op.name]
        names = dict.fromkeys(k.name for k in op.kernels)
        for place, name in enumerate(names):
            if place and (name, "") in shown:
                continue
            shown.add((name, ""))
            way = "" if "wide" in name else _direction(name)
            rows.append(
                {
                    "op": op.name if place == 0 else "",
                    "kernel": name.replace("_kernel", ""),
                    "error": error["ratio"] if place == 0 else None,
                    "bound": error["bound"],
                    "launches": op.launches if place == 0 else None,
                    "bytes": layers.get((op.name, way)),
                    "targets": {t: _worst(found["kernels"], name, t) for t in spec.TARGETS},
                }
            )
    return rows


def _direction(name: str) -> str:
    return {"lora_forward_kernel": "forward", "lora_dx_kernel": "backward"}.get(name.split()[0], "")


def _worst(made: list[Row], name: str, target: str) -> Row:
    of = [c for c in made if c["kernel"] == name and c["target"] == target]
    return {
        "registers": max(c["registers"] for c in of),
        "spills": max(c["spills"] for c in of),
        "matrix": min(c["matrix"] for c in of),
        "matmul": all(c["matmul"] for c in of),
        "failed": any(c["failure"] for c in of),
    }


def _triton() -> str:
    import triton

    return str(triton.__version__)


if __name__ == "__main__":
    _interpret()
