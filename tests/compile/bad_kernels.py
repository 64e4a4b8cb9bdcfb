"""Kernels that must not ship, one for each thing that the compile gate refuses."""

import triton
import triton.language as tl

from trivet.kernels.ops.kernel import Kernel, Tile


@triton.jit
def spilling(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    total = value * 0.0
    for _ in range(3):  # the sum over all values each round keeps the whole tile alive
        total += tl.exp(value) * tl.sum(value + total, 0)
    tl.store(y + at, total + value)


@triton.jit
def without_dot(x, w, y, BLOCK: tl.constexpr):
    i, k = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    product = tl.load(x + i * BLOCK + k) * tl.load(w + k)
    tl.store(y + tl.arange(0, BLOCK), tl.sum(product, 1))


@triton.jit
def dividing(x, y, ROUNDED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(y + at, tl.div_rn(1.0, value) if ROUNDED else 1.0 / value)


@triton.jit
def fusing(x, y, FUSED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(y + at, tl.fma(value, value, value) if FUSED else value * value + value)


@triton.jit
def endless(x, BLOCK: tl.constexpr):
    for _ in tl.static_range(1 << 30):
        tl.store(x + tl.arange(0, BLOCK), 0.0)


@triton.jit
def nonsense(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK))


def _tile(size: int, warps: int = 4) -> dict[str, Tile]:
    return {"*": Tile({"BLOCK": size}, warps)}


XY = {"x": "*fp32", "y": "*fp32"}
KERNELS = [
    Kernel(spilling, XY, _tile(16384)),
    Kernel(without_dot, {"x": "*fp32", "w": "*fp32", "y": "*fp32"}, _tile(32), matmul=True),
    Kernel(dividing, XY, _tile(256), ({"ROUNDED": False}, {"ROUNDED": True}), exact=True),
    Kernel(fusing, XY, _tile(256), ({"FUSED": True}, {"FUSED": False}), exact=True),
    Kernel(nonsense, {"x": "*fp32"}, _tile(32)),
    Kernel(endless, {"x": "*fp32"}, _tile(32)),
]
