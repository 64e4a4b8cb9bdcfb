"""Bytes of a LoRA layer: ours as modelled, the baselines' as the least that they can move.

    compulsory = each of the layer's inputs read once and each of its outputs written once

Ours is run through traffic_model.py for its addresses, with the tiles of the modelled target.

Not covered: time, and other layers than the linear one.
"""

import dataclasses
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch

from trivet.kernels.hardware.gpus import MODELLED
from trivet.kernels.ops.kernel import Kernel, use_target
from trivet.kernels.ops.lora.launch import launch_backward, launch_forward
from trivet.kernels.ops.nf4 import NF4
from trivet.kernels.ops.nf4.formula import BITS, GROUP
from trivet.kernels.ops.weight import Weight
from trivet.kernels.verify import baselines, compile_matrix
from trivet.kernels.verify.address_trace import trace_addresses
from trivet.kernels.verify.baselines import LayerTraffic, Shape
from trivet.kernels.verify.traffic_model import TrafficModel

SHAPES = (Shape(8192, 4096, 4096), Shape(8192, 4096, 14336), Shape(256, 4096, 4096))
DIRECTIONS = ("forward", "backward")
Row = dict[str, Any]
Resident = dict[tuple[str, str], int]  # kernel and tile -> programs that an SM holds at once
Progress = Callable[[float], None]


class Job(NamedTuple):
    """What a worker of `traffic` models."""

    at: Shape
    way: str
    resident: Resident
    quantised: bool


def traffic(
    shapes: tuple[Shape, ...] = SHAPES,
    resident: Resident | None = None,
    on_progress: Progress = lambda share: None,
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
    results: list[LayerTraffic] = []
    # spawned: a forked child would inherit torch's threads in whatever state they are
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for layer in pool.map(_ours, todo):
            results.append(layer)
            on_progress(len(results) / len(todo))
    for job, layer in zip(todo, results, strict=True):
        name = "ours, NF4" if job.quantised else "ours"
        rows.append(_row(job.at, job.way, name, layer, job.quantised))
    for job, layer in zip(todo, results, strict=True):
        if not job.quantised:
            rows.append(_row(job.at, job.way, "ours, NF4 split", split(job.at, layer), True))
    for at in shapes:
        for name, baseline in (baselines.BASELINES | baselines.QUANTISED_BASELINES).items():
            quantised = name in baselines.QUANTISED_BASELINES
            for way, layer in zip(DIRECTIONS, baseline(at), strict=True):
                rows.append(_row(at, way, name, layer, quantised))
    return rows


def _row(at: Shape, way: str, name: str, layer: LayerTraffic, quantised: bool) -> Row:
    least = compulsory(at, way, quantised)
    return {
        "shape": str(at),
        "direction": way,
        "layer": name,
        "quantised": quantised,
        **dataclasses.asdict(layer),
        "compulsory": least,
        "ratio": layer.bytes / least,
        "flops": flops(at, way),
    }


def split(at: Shape, dense: LayerTraffic) -> LayerTraffic:
    """Our dense layer after a launch that makes W 16-bit: ops/lora/split.py's way for many rows."""
    copy = int(at.N * at.K * (BITS / 8 + 2))
    return LayerTraffic(dense.launches + 1, dense.bytes + copy, dense.saved)


def compulsory(at: Shape, way: str, quantised: bool = False) -> int:
    """Bytes of the layer's inputs and outputs: 16-bit activations, 32-bit adapters."""
    weight = at.N * at.K * (BITS / 8 if quantised else 2)
    adapters = 4 * at.R * (at.K + at.N)
    activations = 2 * at.M * (at.K + at.N)
    if way == "forward":  # x, W, A, B -> y
        return int(activations + weight + adapters)
    return int(activations + 2 * at.M * at.K + weight + 2 * adapters)  # and dx, dA, dB


def flops(at: Shape, way: str) -> int:
    """Of the formula: the base's product once, the adapter's two; backward two more for dA, dB."""
    low = 2 * at.M * at.R * (at.K + at.N)
    return 2 * at.M * at.N * at.K + (low if way == "forward" else 2 * low)


def ours(at: Shape, way: str, resident: Resident, quantised: bool = False) -> LayerTraffic:
    """Our LoRA layer in 16 bits, with 32-bit adapters and perhaps W in NF4, as modelled."""

    def fits(kernel: Kernel) -> int:
        return resident.get((kernel.name, compile_matrix.describe(kernel.tile(MODELLED))), 1)

    x, dy = at.meta(at.M, at.K), at.meta(at.M, at.N)
    w = Weight.of(_nf4(at) if quantised else at.meta(at.N, at.K))
    a, b = (at.meta(*s, dtype=torch.float32) for s in ((at.R, at.K), (at.N, at.R)))
    h = at.meta(at.M, at.R)
    with use_target(MODELLED), trace_addresses(TrafficModel(resident=fits)) as model:
        if way == "forward":
            launch_forward(x, w, None, a, b, None, 2.0, 0.0, 0)
        else:
            launch_backward(dy, x, w, None, a, b, None, h, None, 2.0, 0.0, 0)
    accum = model.accum
    saved = baselines.nbytes(h) if way == "forward" else 0
    return LayerTraffic(accum.launches, accum.modelled, saved)


def _nf4(at: Shape) -> NF4:
    """W in NF4 with double quantisation, as bitsandbytes' defaults make it."""
    blocks = at.N * at.K // 64
    sizes = {"code": 256, "absmax2": blocks // GROUP, "offset": 1}
    state = {name: at.meta(size, dtype=torch.float32) for name, size in sizes.items()}
    packed, absmax = (at.meta(n, dtype=torch.uint8) for n in (at.N * at.K // 2, blocks))
    return NF4(packed, absmax, (at.N, at.K), 64, **state)


def _ours(job: Job) -> LayerTraffic:
    torch.set_num_threads(1)
    return ours(*job)
