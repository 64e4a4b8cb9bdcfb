"""What is known of the kernels without a GPU, gathered into one record.

    error     = ‖ours − truth‖ / ‖eager − truth‖, worst over shapes and dtypes (interpreted)
    modelled  = bytes to and from DRAM by traffic_model.py's L2 model (layer_traffic.py)
    registers, spills, matrix instructions: compile_matrix.py

The figures depend on the kernels, torch's and Triton's versions and the seed, not on the machine.

Not covered: time. benchmark.py measures it where there is a GPU.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import torch

from trivet.kernels.hardware.gpus import MODELLED, TARGETS
from trivet.kernels.verify import cases, compile_matrix, layer_traffic
from trivet.kernels.verify.baselines import Shape
from trivet.kernels.verify.compile_matrix import Compiled
from trivet.kernels.verify.layer_traffic import SHAPES, Progress, Resident, Row

SEED = 0
PACKAGES = ("bitsandbytes", "peft")  # the baselines' own


def require(*packages: str) -> None:
    """Raise ModuleNotFoundError, with its `name`, for the first package that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{package} is not installed, and what is known of the kernels without a GPU "
                f"needs it: install {package}",
                name=package,
            )


def collect(on_progress: Progress = lambda share: None, shapes: tuple[Shape, ...] = SHAPES) -> Row:
    """Lists of rows: "kernels", "faults", "errors", "traffic"; "versions". Takes minutes.

    Raises ModuleNotFoundError at once when a package of a baseline is missing.
    """
    require(*PACKAGES)
    binaries = compile_matrix.compile_all(on_progress=lambda share: on_progress(0.4 * share))
    ratios = errors(lambda share: on_progress(0.4 + 0.2 * share))
    layers = layer_traffic.traffic(
        shapes, residency(binaries), lambda share: on_progress(0.6 + 0.4 * share)
    )
    return {
        "kernels": [dataclasses.asdict(c) for c in binaries],
        "faults": [fault for c in binaries for fault in compile_matrix.faults(c)],
        "errors": ratios,
        "traffic": layers,
        "versions": {name: version(name).split("+")[0] for name in ("torch", "triton")},
    }


def residency(binaries: list[Compiled]) -> Resident:
    """Programs that an SM holds at once, by kernel and tile, of its first variant: the plain layer,
    which is the one that `layer_traffic.ours` models."""
    programs: Resident = {}
    for c in binaries:
        if c.target == MODELLED and not c.failure:
            programs.setdefault((c.kernel, c.tile), c.resident)
    return programs


def errors(on_progress: Progress = lambda share: None, only: tuple[str, ...] = ()) -> list[Row]:
    """Each operator's worst error ratio over three shapes and its dtypes, in an interpreter.

    `only`: these operators.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trivet.kernels.verify.verification", *only],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    rows, count = [], len(only or cases.ops())
    for line in process.stdout or ():
        rows.append(json.loads(line))
        on_progress(len(rows) / count)
    if process.wait():
        raise RuntimeError(f"the interpreter ended with {process.returncode}; see its output above")
    return rows


def _interpret() -> None:
    """The worker of `errors`: one JSON line for each operator."""
    # mends Triton's interpreter
    from trivet.kernels.verify import interpreter  # noqa: F401

    torch.set_num_threads(1)
    np.seterr(all="ignore")  # infinities are among the inputs
    for op in cases.ops():
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
                ratio = cases.error_ratio(op, dims, dtype, SEED)
                if ratio > worst["ratio"]:
                    worst |= {"ratio": ratio, "dims": dims, "dtype": str(dtype).split(".")[1]}
        print(
            json.dumps(worst | {"bound": op.error, "launches": op.launches, "seed": SEED}),
            flush=True,
        )


def refusals(record: Row) -> list[str]:
    """What speaks against shipping, a sentence each: the compile gate's, and errors too large."""
    return record["faults"] + [
        f"{r['op']}: error {r['ratio']:.3g} × eager's, at most {r['bound']:g} is allowed"
        for r in record["errors"]
        if not r["ratio"] <= r["bound"]
    ]


def summary(record: Row) -> list[Row]:
    """One row for each operator and kernel, worst over variants; what the table shows."""
    by_op = {row["op"]: row for row in record["errors"]}
    names_of = {"ours": "lora_linear", "ours, NF4": "qlora_linear nf4"}
    layers = {  # at the first shape
        (names_of[r["layer"]], r["direction"]): r["ratio"]
        for r in reversed(record["traffic"])
        if r["layer"] in names_of
    }
    rows: list[Row] = []
    listed: set[str] = set()
    for op in cases.ops():
        error = by_op[op.name]
        names = dict.fromkeys(k.name for k in op.kernels)
        for place, name in enumerate(names):
            if place and name in listed:
                continue
            listed.add(name)
            way = "" if "wide" in name else _direction(name)
            rows.append(
                {
                    "op": op.name if place == 0 else "",
                    "kernel": name.replace("_kernel", ""),
                    "error": error["ratio"] if place == 0 else None,
                    "bound": error["bound"],
                    "launches": op.launches if place == 0 else None,
                    "bytes": layers.get((op.name, way)),
                    "targets": {t: _worst(record["kernels"], name, t) for t in TARGETS},
                }
            )
    return rows


def _direction(name: str) -> str:
    return {"lora_forward_kernel": "forward", "lora_dx_kernel": "backward"}.get(name.split()[0], "")


def _worst(binaries: list[Row], name: str, target: str) -> Row:
    of = [c for c in binaries if c["kernel"] == name and c["target"] == target]
    return {
        "registers": max(c["registers"] for c in of),
        "spills": max(c["spills"] for c in of),
        "matrix": min(c["matrix"] for c in of),
        "matmul": all(c["matmul"] for c in of),
        "failed": any(c["failure"] for c in of),
    }


if __name__ == "__main__":
    _interpret()
