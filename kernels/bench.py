"""What only a GPU can tell: are the kernels right on it, and how long does a layer take.

    roof = max(FLOPs / peak, compulsory bytes / bandwidth)      time = median of forward + backward

Correctness comes first: every operator's error ratio (spec.error_ratio) on the device, bfloat16
before other dtypes; nothing is timed after a failure. Then our LoRA layer, PEFT's, and what else
is installed (bitsandbytes, unsloth; Liger for normalisation and SwiGLU), at one projection each of
five models. It runs unattended and ends in the time it is given: what it does not reach, it names.

Not covered: whole models, several GPUs, memory. Peak and bandwidth are the makers' published ones;
of other devices no roof is given.
"""

import importlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import UserError
from . import evidence, peers, report, spec
from .lora import lora_linear
from .norm import rms_norm
from .peers import Shape
from .swiglu import swiglu

ROWS = 4 * 2048
MODELS: dict[str, Shape] = {
    "SmolLM2-135M up_proj": Shape(ROWS, 576, 1536),
    "Qwen2.5-0.5B up_proj": Shape(ROWS, 896, 4864),
    "Llama-3.2-1B up_proj": Shape(ROWS, 2048, 8192),
    "Llama-3.1-8B q_proj": Shape(ROWS, 4096, 4096),
    "Phi-3-mini qkv_proj": Shape(ROWS, 3072, 9216),
}
# name in the device's name -> dense bfloat16 FLOP/s, bytes/s; from the makers' data sheets
ROOFS = {
    "H200": (989e12, 4.8e12),
    "H100": (report.PEAK, report.BANDWIDTH),
    "A100": (312e12, 2.039e12),
    "RTX 4090": (165.2e12, 1.008e12),
    "MI300X": (1307.4e12, 5.3e12),
}

Step = Callable[[], Any]
Median = Callable[[Step], float]


def device() -> str:
    """The GPU's name. Raises UserError when there is none."""
    if spec.INTERPRETED:
        raise UserError(
            "TRITON_INTERPRET=1 is set, so kernels would be interpreted and not run: unset it."
        )
    if not torch.cuda.is_available():
        raise UserError(
            "This machine has no GPU that torch can use, so there is nothing to time. Without one "
            "are proven: every operator's error against float64, the code that each kernel "
            "compiles to for four targets, and the bytes that a layer moves (modelled). "
            "`trivet kernels` shows that."
        )
    return torch.cuda.get_device_name()


def run(
    progress: Callable[[float], None] = lambda share: None,
    seconds: float = 480.0,
    models: dict[str, Shape] = MODELS,
    place: str = "cuda",
    median: Median | None = None,
) -> dict[str, Any]:
    """`{"device", "errors", "failed", "times", "unreached"}`; ends after `seconds` at the latest,
    but for the measurement at hand."""
    began = time.monotonic()

    def late(share: float = 1.0) -> bool:
        spent = time.monotonic() - began
        progress(min(1.0, spent / max(seconds, 1e-9)))
        return spent > share * seconds

    name = device() if place == "cuda" else place
    found: dict[str, Any] = {"device": name, "errors": [], "times": [], "unreached": []}
    for dtype, op in _checks():
        what = f"{op.name} in {dtype}"
        if late(0.6):
            found["unreached"].append(what)
            continue
        found["errors"].append(check(op, dtype))
    found["failed"] = [r for r in found["errors"] if not r["ratio"] <= r["bound"]]
    if found["failed"]:
        return found
    for model, at in models.items():
        for layer, make in (LAYERS | BLOCKS).items():
            if late():
                found["unreached"].append(f"{layer} at {model}")
                continue
            least = roof(name, at) if layer in LAYERS else None
            row = {"model": model, "shape": str(at), "layer": layer, "roof": least}
            found["times"].append(row | _timed(make, at, place, median or _median))
    progress(1.0)
    return found


def _checks() -> list[tuple[torch.dtype, spec.Op]]:
    """Each operator in each of its dtypes, bfloat16 first for all."""
    order = (torch.bfloat16, torch.float16, torch.float32)
    return [(dtype, op) for dtype in order for op in spec.ops() if dtype in op.dtypes]


def check(op: spec.Op, dtype: torch.dtype) -> dict[str, Any]:
    """The operator's error ratio at its largest sizes; infinite when it does not run at all."""
    dims = {name: sizes[-1] for name, sizes in op.dims.items()}
    row = {"op": op.name, "dtype": str(dtype).split(".")[1], "bound": op.error, "why": ""}
    try:
        ratio = (
            evidence.equal(op, dims, dtype) if op.error == 0 else spec.error_ratio(op, dims, dtype)
        )
    except Exception as e:  # whatever a compiler or driver raises is this operator's failure
        return row | {"ratio": float("inf"), "why": f"{type(e).__name__}: {str(e)[:200]}"}
    return row | {"ratio": ratio}


def roof(name: str, at: Shape) -> float | None:
    """Least milliseconds of forward and backward on the device; None where it is not known."""
    for known, (peak, bandwidth) in ROOFS.items():
        if known in name:
            return 1e3 * sum(
                max(evidence.flops(at, way) / peak, evidence.compulsory(at, way) / bandwidth)
                for way in evidence.DIRECTIONS
            )
    return None


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


def _training(layer: Callable[[Tensor], Tensor], at: Shape, place: str, *leaves: Tensor) -> Step:
    """One forward and backward on random input."""
    x, dy = _normal(place, at.M, at.K).requires_grad_(), _normal(place, at.M, at.N)
    return lambda: torch.autograd.grad(layer(x), [x, *leaves], dy)


def _normal(place: str, *sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*sizes, device=place, dtype=dtype)


def _adapters(at: Shape, place: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a, b = (_normal(place, *s, dtype=dtype) for s in ((at.R, at.K), (at.N, at.R)))
    return a.requires_grad_(), b.requires_grad_()


def ours(at: Shape, place: str) -> Step:
    w, (a, b) = _normal(place, at.N, at.K), _adapters(at, place)
    return _training(lambda x: lora_linear(x, w, None, a, b, 2.0), at, place, a, b)


def ours_quantised(at: Shape, place: str) -> Step:
    qlora = importlib.import_module("..qlora", __name__)
    nf4 = importlib.import_module("..nf4", __name__)
    state, (a, b) = nf4.quantise(_normal(place, at.N, at.K)), _adapters(at, place)
    return _training(lambda x: qlora.qlora_linear(x, state, None, a, b, 2.0), at, place, a, b)


def peft(at: Shape, place: str) -> Step:
    layer = peers.peft_layer(at, torch.float32, 0.0, place)
    return _training(layer, at, place, *(p for p in layer.parameters() if p.requires_grad))


def bitsandbytes(at: Shape, place: str) -> Step:
    """A 4-bit base with double quantisation under a PEFT-like adapter."""
    import bitsandbytes as bnb

    base = bnb.nn.Linear4bit(
        at.K, at.N, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    ).to(place)
    a, b = _adapters(at, place)

    def layer(x: Tensor) -> Tensor:
        return base(x) + ((x.float() @ a.T @ b.T) * 2.0).to(x.dtype)

    return _training(layer, at, place, a, b)


def unsloth(at: Shape, place: str) -> Step:
    from unsloth.kernels.fast_lora import LoRA_W

    w, (a, b) = _normal(place, at.N, at.K), _adapters(at, place, torch.bfloat16)
    return _training(lambda x: LoRA_W.apply(x[None], w, None, a, b, 2.0)[0], at, place, a, b)


def _block(at: Shape, place: str, count: int, block: Callable[..., Any]) -> Step:
    """Forward and backward of a block part on `count` inputs [M, N]."""
    inputs = [_normal(place, at.M, at.N).requires_grad_() for _ in range(count)]
    dy = _normal(place, at.M, at.N)
    return lambda: torch.autograd.grad(block(*inputs), inputs, dy)


def ours_norm(at: Shape, place: str) -> Step:
    weight = _normal(place, at.N)
    return _block(at, place, 1, lambda x: rms_norm(x, weight, 1e-6))


def liger_norm(at: Shape, place: str) -> Step:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    weight = _normal(place, at.N)
    return _block(at, place, 1, lambda x: LigerRMSNormFunction.apply(x, weight, 1e-6))


def liger_swiglu(at: Shape, place: str) -> Step:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return _block(at, place, 2, LigerSiLUMulFunction.apply)


LAYERS: dict[str, Callable[[Shape, str], Step]] = {
    "ours": ours,
    "PEFT": peft,
    "unsloth": unsloth,
    "ours, NF4": ours_quantised,
    "bitsandbytes": bitsandbytes,
}
BLOCKS: dict[str, Callable[[Shape, str], Step]] = {
    "ours, RMS norm of N": ours_norm,
    "Liger, RMS norm of N": liger_norm,
    "ours, SwiGLU of N": lambda at, place: _block(at, place, 2, swiglu),
    "Liger, SwiGLU of N": liger_swiglu,
}


def write(found: dict[str, Any], folder: Path) -> Path:
    """docs/kernels-<device>.md."""
    slug = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    path = folder / f"kernels-{slug}.md"
    path.write_text(document(found))
    return path


def document(found: dict[str, Any]) -> str:
    """The markdown text."""
    text = f"# Measured on {found['device']}\n\nWritten by `trivet kernels bench`; do not edit.\n"
    text += "\n## Errors on the device\n\n" + report.table(
        ["operator", "dtype", "error", "allowed", ""],
        [
            [r["op"], r["dtype"], f"{r['ratio']:.2f}", f"{r['bound']:g}", r["why"]]
            for r in found["errors"]
        ],
    )
    if found["failed"]:
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
            for r in found["times"]
        ],
    )
    if found["unreached"]:
        text += f"\nNot reached in the time given: {', '.join(found['unreached'])}.\n"
    return text
