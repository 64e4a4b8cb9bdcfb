"""Whether a quantised weight is dequantised inside the matmul or before it.

Fused, each tile of rows dequantises W anew: nothing 16-bit is written, but the work grows with M.
Split, W is dequantised once into 16 bits that the matmul reads. With each unit of the GPU running
on its own (Williams et al. 2009, "Roofline", CACM 52(4)), for x [M, K] and W [N, K] in q bits:

    fused = max(2·M·N·K / F,  ⌈M/BLOCK_M⌉·N·K·OPS / V,  (2·M·K + 2·M·N + q·N·K/8) / B)
    split = (2 + q/8)·N·K / B  +  max(2·M·N·K / F,  (2·M·K + 2·M·N + 2·N·K) / B)  +  LAUNCH

F: dense bf16 FLOP/s of the tensor cores, V: integer and fp32 operations a second outside them, B:
bytes a second (hardware/gpus.py). `settle` takes the smaller. A model, not a
measurement: no GPU has confirmed where the two cross.

Not covered: overlap of dequantising with the previous matmul, and L2 hits on the 16-bit copy.
"""

from torch import Tensor

from trivet.kernels.hardware.gpus import LAUNCH, TARGETS
from trivet.kernels.ops import kernel
from trivet.kernels.ops.nf4 import formula as nf4
from trivet.kernels.ops.weight import Weight

# Instructions to dequantise an element: those of the forward's loop for sm_90, less the dense
# kernel's, for each element of W (nf4 22.2 - 4.3, int4 14.7 - 4.3).
OPS = {"nf4": 18, "int4": 10}
BITS = {"nf4": nf4.BITS, "int4": 4.5}  # with their scales: blocks of 64 doubly quantised; of 32


def fused(M: int, N: int, K: int, format: str, target: str, block_m: int = 128) -> bool:
    """Whether dequantising inside the matmul is the faster by the rule above."""
    gpu, q = TARGETS[target], BITS[format] / 8
    flops, rows = 2 * M * N * K, 2 * M * (K + N)
    inside = max(
        gpu.seconds(flops, rows + q * N * K), -(-M // block_m) * N * K * OPS[format] / gpu.vector
    )
    before = (2 + q) * N * K / gpu.bandwidth + LAUNCH
    return inside <= before + gpu.seconds(flops, rows + 2 * N * K)


def settle(weight: Weight, x: Tensor) -> Weight:
    """`weight` as it is, or its 16-bit copy when the rule says split; the copy lives for the call.

    The copy's memory goes back to torch's allocator with the call, which gives it to the next
    layer: never more than one layer's 16-bit weights are held.
    """
    if weight.format == "dense":
        return weight
    if weight.tiled and fused(x.shape[0], *weight.shape, weight.format, kernel.target()):
        return weight
    return Weight.of(weight.dense(x.dtype))
