"""Whether a quantised weight is dequantised inside the matmul or before it.

Fused, each tile of rows dequantises W anew: nothing 16-bit is written, but the work grows with M.
Split, W is dequantised once into 16 bits that the matmul reads. With each unit of the GPU running
on its own (Williams et al. 2009, "Roofline", CACM 52(4)), for x [M, K] and W [N, K] in q bits:

    fused = max(2·M·N·K / F,  ⌈M/BLOCK_M⌉·N·K·OPS / V,  (2·M·K + 2·M·N + q·N·K/8) / B)
    split = (2 + q/8)·N·K / B  +  max(2·M·N·K / F,  (2·M·K + 2·M·N + 2·N·K) / B)  +  LAUNCH

F: dense bf16 FLOP/s of the tensor cores, V: integer and fp32 operations a second outside them, B:
bytes a second, all as the makers publish them. `settle` takes the smaller. A model, not a
measurement: no GPU has confirmed where the two cross.

Not covered: overlap of dequantising with the previous matmul, and L2 hits on the 16-bit copy.
"""

from dataclasses import dataclass

from torch import Tensor

from . import spec
from .weight import Weight

# Instructions to dequantise an element: those of the forward's loop for sm_90, less the dense
# kernel's, for each element of W (nf4 22.2 - 4.3, int4 14.7 - 4.3).
OPS = {"nf4": 18, "int4": 10}
LAUNCH = 3e-6  # seconds
BITS = {"nf4": 4.13, "int4": 4.5}  # with their scales: blocks of 64 doubly quantised; of 32


@dataclass(frozen=True)
class Device:
    """Published peaks: bf16 FLOP/s without sparsity, vector operations/s, bytes/s; L2 bytes (AMD:
    of the Infinity Cache behind it), multiprocessors (AMD: compute units)."""

    flops: float
    vector: float
    bandwidth: float
    l2: int
    units: int


# NVIDIA A100 80 GB, H100 SXM and B200, AMD MI300X data sheets; a fused multiply-add counts once in
# `vector`.
DEVICES = {
    "sm_80": Device(312e12, 9.75e12, 2.04e12, 40 << 20, 108),
    "sm_90": Device(989e12, 33.5e12, 3.35e12, 50 << 20, 132),
    "sm_100": Device(2250e12, 37.5e12, 8.0e12, 126 << 20, 148),
    "gfx942": Device(1307e12, 81.7e12, 5.3e12, 256 << 20, 304),
}


def fused(M: int, N: int, K: int, format: str, target: str, block_m: int = 128) -> bool:
    """Whether dequantising inside the matmul is the faster by the rule above."""
    d, q = DEVICES[target], BITS[format] / 8
    product = 2 * M * N * K / d.flops
    rows = 2 * M * (K + N)
    inside = max(
        product,
        -(-M // block_m) * N * K * OPS[format] / d.vector,
        (rows + q * N * K) / d.bandwidth,
    )
    before = (2 + q) * N * K / d.bandwidth + LAUNCH
    return inside <= before + max(product, (rows + 2 * N * K) / d.bandwidth)


def settle(weight: Weight, x: Tensor) -> Weight:
    """`weight` as it is, or its 16-bit copy when the rule says split; the copy lives for the call.

    The copy's memory goes back to torch's allocator with the call, which gives it to the next
    layer: never more than one layer's 16-bit weights are held.
    """
    if weight.format == "dense":
        return weight
    if weight.tiled and fused(x.shape[0], *weight.shape, weight.format, spec.target()):
        return weight
    return Weight.of(weight.dense(x.dtype))
