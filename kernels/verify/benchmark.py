"""What only a GPU can tell: are the kernels right on it, and how long does a layer take.

    roof = max(FLOPs / peak, compulsory bytes / bandwidth)      time = median of forward + backward

Correctness comes first: every operator's error ratio (cases.error_ratio) on the device, bfloat16
before other dtypes; nothing is timed after a failure. Then the layers of benchmark_layers.py: our
LoRA layer, PEFT's, and what else is installed (bitsandbytes, unsloth; Liger for normalisation and
SwiGLU), at one projection each of five models. It runs unattended and ends in the time it has: what
it does not reach, it names.

Not covered: whole models, several GPUs, memory. Peak and bandwidth are the makers' published ones;
of other devices no roof is known.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trivet.kernels.hardware.gpus import PRODUCTS
from trivet.kernels.ops import kernel
from trivet.kernels.ops.kernel import NoDevice
from trivet.kernels.verify import cases, layer_traffic, report
from trivet.kernels.verify.baselines import Shape
from trivet.kernels.verify.benchmark_layers import BLOCKS, LAYERS, Step

ROWS = 4 * 2048
MODELS: dict[str, Shape] = {
    "SmolLM2-135M up_proj": Shape(ROWS, 576, 1536),
    "Qwen2.5-0.5B up_proj": Shape(ROWS, 896, 4864),
    "Llama-3.2-1B up_proj": Shape(ROWS, 2048, 8192),
    "Llama-3.1-8B q_proj": Shape(ROWS, 4096, 4096),
    "Phi-3-mini qkv_proj": Shape(ROWS, 3072, 9216),
}

Median = Callable[[Step], float]


def device() -> str:
    """The GPU's name. Raises NoDevice when there is none, or kernels would be interpreted."""
    if kernel.INTERPRETED:
        raise NoDevice(
            "TRITON_INTERPRET=1 is set, so kernels would be interpreted and not run: unset it."
        )
    if not torch.cuda.is_available():
        raise NoDevice(
            "This machine has no GPU that torch can use, so there is nothing to time: use one that "
            "has. Without a GPU are proven every operator's error against float64, the code that "
            "each kernel compiles to for four targets, and the bytes that a layer moves (modelled)."
        )
    return torch.cuda.get_device_name()


def run(
    on_progress: Callable[[float], None] = lambda share: None,
    seconds: float = 480.0,
    models: dict[str, Shape] = MODELS,
    place: str = "cuda",
    median: Median | None = None,
) -> dict[str, Any]:
    """`{"device", "errors", "failed", "times", "unreached"}`; ends after `seconds` at the latest,
    but for the measurement at hand."""
    start = time.monotonic()

    def late(share: float = 1.0) -> bool:
        spent = time.monotonic() - start
        on_progress(min(1.0, spent / max(seconds, 1e-9)))
        return spent > share * seconds

    name = device() if place == "cuda" else place
    record: dict[str, Any] = {"device": name, "errors": [], "times": [], "unreached": []}
    for dtype, op in _checks():
        what = f"{op.name} in {dtype}"
        if late(0.6):
            record["unreached"].append(what)
            continue
        record["errors"].append(check(op, dtype))
    record["failed"] = [r for r in record["errors"] if not r["ratio"] <= r["bound"]]
    if record["failed"]:
        return record
    for model, at in models.items():
        for layer, make in (LAYERS | BLOCKS).items():
            if late():
                record["unreached"].append(f"{layer} at {model}")
                continue
            least = roof(name, at) if layer in LAYERS else None
            row = {"model": model, "shape": str(at), "layer": layer, "roof": least}
            record["times"].append(row | _timed(make, at, place, median or _median))
    on_progress(1.0)
    return record


def _checks() -> list[tuple[torch.dtype, cases.Op]]:
    """Each operator in each of its dtypes, bfloat16 first for all."""
    order = (torch.bfloat16, torch.float16, torch.float32)
    return [(dtype, op) for dtype in order for op in cases.ops() if dtype in op.dtypes]


def check(op: cases.Op, dtype: torch.dtype) -> dict[str, Any]:
    """The operator's error ratio at its largest sizes; infinite when it does not run at all."""
    dims = {name: sizes[-1] for name, sizes in op.dims.items()}
    row = {"op": op.name, "dtype": str(dtype).split(".")[1], "bound": op.error, "why": ""}
    try:
        ratio = cases.error_ratio(op, dims, dtype)
    except Exception as e:  # whatever a compiler or driver raises is this operator's failure
        return row | {"ratio": float("inf"), "why": f"{type(e).__name__}: {str(e)[:200]}"}
    return row | {"ratio": ratio}


def roof(name: str, at: Shape) -> float | None:
    """Least milliseconds of forward and backward on the device; None where it is not known."""
    product = next((product for product in PRODUCTS if product in name), None)
    if product is None:
        return None
    return 1e3 * sum(
        PRODUCTS[product].seconds(layer_traffic.flops(at, way), layer_traffic.compulsory(at, way))
        for way in layer_traffic.DIRECTIONS
    )


def _timed(
    make: Callable[[Shape, str], Step], at: Shape, place: str, median: Median
) -> dict[str, Any]:
    try:
        return {"ms": median(make(at, place)), "why": ""}
    except ImportError as e:
        return {"ms": None, "why": f"not installed ({e.name})"}
    except Exception as e:  # a library that cannot run here is a line in the table, not the end
        return {"ms": None, "why": f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"}


def _median(step: Step) -> float:
    from triton.testing import do_bench

    return float(do_bench(step, warmup=50, rep=300, return_mode="median"))


def write(record: dict[str, Any], folder: Path) -> Path:
    """docs/kernels-<device>.md."""
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    path = folder / f"kernels-{slug}.md"
    path.write_text(document(record))
    return path


def document(record: dict[str, Any]) -> str:
    """The markdown text."""
    text = f"# Measured on {record['device']}\n\n"
    text += "Written by kernels/verify/benchmark.py; do not edit.\n"
    text += "\n## Errors on the device\n\n" + report.table(
        ["operator", "dtype", "error", "allowed", ""],
        [
            [r["op"], r["dtype"], f"{r['ratio']:.2f}", f"{r['bound']:g}", r["why"]]
            for r in record["errors"]
        ],
    )
    if record["failed"]:
        return text + "\nAn operator is wrong on this device, so nothing was timed.\n"
    text += "\n## Forward and backward of one LoRA layer, and of block parts, median ms\n\n"
    text += "`roof` is the least time that the published peak and bandwidth allow.\n\n"
    text += report.table(
        ["projection", "shape", "layer", "ms", "roof", "ms / roof", ""],
        [
            [
                *(r["model"], r["shape"], r["layer"], report.number(r["ms"], ".3f")),
                report.number(r["roof"], ".3f"),
                f"{r['ms'] / r['roof']:.2f}" if r["ms"] and r["roof"] else "",
                r["why"],
            ]
            for r in record["times"]
        ],
    )
    if record["unreached"]:
        text += f"\nNot reached in time: {', '.join(record['unreached'])}.\n"
    return text
