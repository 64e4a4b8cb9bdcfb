"""How the kernels of triton.py are launched and what they ship as: tiles, types, variants.

The order of the tiles: down `group` rows, then one column on. A wave is the programs that a GPU
holds at once; it reads `group` row panels (x's BLOCK_M rows, all of K) and wave/group columns of W.

    group = 1              when W takes up at most SHARE of the L2: it stays, x passes by
    group = SHARE·L2/panel else: the row panels stay, W passes by once for each group
    group ≥ √wave          where neither stays: a square wave reads the least

and a wave of the last two is made whole columns. For dx, dy and N stand for x and K. What is
written goes past the L2. docs/kernels.md has the bytes that this leaves.

Not covered: other tiles than those in the tables; see ops/kernel.py. Compiled ahead is bfloat16
alone: with float32 x the small tile still spills 16 bytes where rank > 32, dropout and a gain meet.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from trivet.kernels.hardware.gpus import MODELLED, TARGETS, Gpu
from trivet.kernels.ops.kernel import Kernel, Tile, target
from trivet.kernels.ops.lora.triton import lora_dx_kernel, lora_forward_kernel, lora_weights_kernel
from trivet.kernels.ops.weight import Weight


def rank_block(rank: int) -> int:
    """RANK, the ranks handled at once: tl.dot wants 16 at least, registers allow 32."""
    return 16 if rank <= 16 else 32


def narrow(x: Tensor, rank: int, dropout: float) -> bool:
    """Whether the large tile fits into registers: 16-bit x, a rank of 16 at most, no mask to draw.

    With float32 x, which no matrix instruction takes, it would spill more than a kilobyte.
    """
    return x.element_size() <= 2 and rank <= 16 and not dropout


# Of the L2, for what is to stay there. Modelled at M=8192, K=N=4096 with all 50 MB of an H100's:
# 1.00 times the least bytes forward; were only 40 MB of use, W would not stay and it would be 2.4.
SHARE = 2 / 3
RESIDENT = 2  # programs on a multiprocessor: what the dense tiles' registers allow on an H100


def row_group(panel: int, weight: int, gpu: Gpu) -> int:
    """How many row tiles share a column, from the bytes of a row panel and of W: see above."""
    wave, room = RESIDENT * gpu.units, SHARE * gpu.l2
    if weight <= room:
        return 1
    rows = max(room / panel, wave**0.5)
    return wave // max(1, round(wave / rows))


def _group(kernel: Kernel, x: Tensor, w: Weight) -> int:
    """The group for x [M, ·] times W; the interpreter takes the modelled target's."""
    panel = kernel.tile(target()).sizes["BLOCK_M"] * x.shape[1] * x.element_size()
    return row_group(panel, w.data.nbytes, TARGETS.get(target(), TARGETS[MODELLED]))


def launch_forward(
    x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor, gain: Tensor | None,
    scale: float, dropout: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y [M, N] and h [M, R] in one launch."""
    (M, K), N, R = x.shape, b.shape[0], a.shape[0]
    y, h = x.new_empty(M, N), x.new_empty(M, R)
    kernel = FORWARD[w.format, narrow(x, R, dropout)]
    kernel.launch(
        lambda t: (triton.cdiv(M, t["BLOCK_M"]) * triton.cdiv(N, t["BLOCK_N"]),),
        x, *w.pointers(), _or(bias, x), a, b, _or(gain, x), y, h,
        M, N, K, R, x.stride(0), w.data.stride(0), _group(kernel, x, w),
        scale, dropout, 1 / (1 - dropout), seed,
        **w.constants(), BIAS=bias is not None, GAIN=gain is not None, DROPOUT=dropout > 0,
        RANK=rank_block(R), CHUNKED=rank_block(R) < R,
    )  # fmt: skip
    return y, h


def launch_backward(
    dy: Tensor, x: Tensor, w: Weight, bias: Tensor | None, a: Tensor, b: Tensor,
    gain: Tensor | None, h: Tensor, y: Tensor | None,
    scale: float, dropout: float, seed: int, needs_dx: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dx [M, K], dA, dB and dg ([0] when there is no g) in two launches."""
    (M, K), N, R = x.shape, b.shape[0], a.shape[0]
    dx, t = x.new_empty(M, K), x.new_empty(M, R)
    da, db = torch.empty_like(a), torch.empty_like(b)
    dgain = x.new_empty(0) if gain is None else torch.empty_like(gain)
    with_gain = {"GAIN": gain is not None, "DROPOUT": dropout > 0, "RANK": rank_block(R)}
    kernel = DX[w.format, narrow(x, R, dropout)]
    kernel.launch(
        lambda t: (triton.cdiv(M, t["BLOCK_M"]) * triton.cdiv(K, t["BLOCK_K"]),),
        dy, *w.pointers(), a, b, _or(gain, x), dx, t,
        M, N, K, R, w.data.stride(0), _group(kernel, dy, w),
        scale, dropout, 1 / (1 - dropout), seed,
        **w.constants(), **with_gain, CHUNKED=rank_block(R) < R,
    )  # fmt: skip
    WEIGHTS.launch(
        lambda s: (
            triton.cdiv(K, s["BLOCK"]) + triton.cdiv(N, s["BLOCK"]),
            triton.cdiv(R, rank_block(R)),
        ),
        dy, x, h, t, _or(y, x), _or(bias, x), _or(gain, x), da, db, dgain,
        M, N, K, R, x.stride(0), scale, dropout, seed, BIAS=bias is not None, **with_gain,
    )  # fmt: skip
    return dx, da, db, dgain


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A pointer is passed even where the kernel will not follow it."""
    return other if tensor is None else tensor


def _tile(m: int, n: int, k: int, stages: int = 3) -> Tile:
    return Tile({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, 8, stages)


# Chosen by compiling: the largest tiles with at most 200 registers, no spill, and the shared
# memory that the target has (gfx942: 64 KiB). What a quantised weight's codes take up in registers
# goes off the step along the sum, so that its tiles move as many bytes as dense ones.
_SMALL = {"interpreter": Tile({"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32})}
_FORWARD = {"*": _tile(128, 128, 64), "gfx942": _tile(128, 128, 64, 2), **_SMALL}
FORWARD_TILES = {
    "dense": _FORWARD,
    "nf4": {**_FORWARD, "sm_80": _tile(128, 128, 32)},
    "int4": {**_FORWARD, "sm_80": _tile(128, 128, 32)},
}
_DX = {"*": _tile(128, 64, 128), "gfx942": _tile(128, 32, 128, 2), **_SMALL}
DX_TILES = {
    "dense": _DX,
    "nf4": {**_DX, "sm_80": _tile(128, 16, 128), "sm_90": _tile(128, 32, 128)},
    "int4": {**_DX, "sm_80": _tile(128, 16, 128), "sm_90": _tile(128, 16, 128)},
}
WIDE_FORWARD_TILES = {"*": _tile(64, 64, 32), **_SMALL}
WIDE_DX_TILES = {"*": _tile(64, 32, 64), **_SMALL}

# format -> (types of the weight and its state, constants), as shipped
WEIGHTS_AS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "dense": (("*bf16",), {"FORMAT": 0, "BLOCK": 0, "DOUBLE": False}),
    "nf4": (("*u8", "*u8", "*fp32", "*fp32", "*fp32"), {"FORMAT": 1, "BLOCK": 64, "DOUBLE": True}),
    "int4": (("*u8", "*fp32", "*u8"), {"FORMAT": 2, "BLOCK": 32, "DOUBLE": True}),
}
PLAIN = {"GAIN": False, "DROPOUT": False, "RANK": 16, "CHUNKED": False}
DORA = PLAIN | {"GAIN": True}
DROPOUT = PLAIN | {"DROPOUT": True}
CHUNKED = {"GAIN": True, "DROPOUT": True, "RANK": 32, "CHUNKED": True}
_SIZES = {name: "i32" for name in ("M", "N", "K", "R")}
_NUMBERS = {"group": "i32", "scale": "fp32", "p": "fp32", "boost": "fp32", "seed": "i64"}


def forward_signature(w: str, *state: str) -> dict[str, str]:
    """The forward's argument types for a weight of type `w` with its state's types."""
    return {
        "x": "*bf16", **weight_signature(w, *state), "bias": "*bf16", "a": "*fp32", "b": "*fp32",
        "gain": "*fp32", "y": "*bf16", "h": "*bf16", **_SIZES, "stride_x": "i32",
        "stride_w": "i32", **_NUMBERS,
    }  # fmt: skip


def dx_signature(w: str, *state: str) -> dict[str, str]:
    """The backward's, likewise."""
    return {
        "dy": "*bf16", **weight_signature(w, *state), "a": "*fp32", "b": "*fp32", "gain": "*fp32",
        "dx": "*bf16", "t": "*bf16", **_SIZES, "stride_w": "i32", **_NUMBERS,
    }  # fmt: skip


def weight_signature(w: str, *state: str) -> dict[str, str]:
    types = (w, *state, *[w] * (4 - len(state)))
    return dict(zip(("w", "s0", "s1", "s2", "s3"), types, strict=True))


def _matmuls(
    fn: Any,
    signature: Callable[..., dict[str, str]],
    tiles: Mapping[str, Mapping[str, Tile]],
    wide: Mapping[str, Tile],
    flags: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[tuple[str, bool], Kernel]:
    """(format, whether the large tile fits) -> kernel."""
    kernels = {}
    for format, (types, constants) in WEIGHTS_AS.items():
        for large, table in ((True, tiles[format]), (False, wide)):
            variants = [PLAIN, DORA] if large else [DROPOUT, CHUNKED]
            if format != "dense" and not large:
                variants = [CHUNKED]  # it holds all that the other does
            kernels[format, large] = Kernel(
                fn,
                signature(*types),
                table,
                tuple({**constants, **variant, **flags(variant)} for variant in variants),
                matmul=True,
                exact=format != "dense",  # the tile of W that is multiplied, see triton.py
                label=f"{fn.__name__} {format}{'' if large else ' wide'}",
            )
    return kernels


FORWARD = _matmuls(
    lora_forward_kernel,
    forward_signature,
    FORWARD_TILES,
    WIDE_FORWARD_TILES,
    lambda variant: {"BIAS": variant["GAIN"]},
)
DX = _matmuls(lora_dx_kernel, dx_signature, DX_TILES, WIDE_DX_TILES, lambda variant: {})
WEIGHTS = Kernel(
    lora_weights_kernel,
    {"dy": "*bf16", "x": "*bf16", "h": "*bf16", "t": "*bf16", "y": "*bf16", "bias": "*bf16",
     "gain": "*fp32", "da": "*fp32", "db": "*fp32", "dgain": "*fp32", **_SIZES, "stride_x": "i32",
     "scale": "fp32", "p": "fp32", "seed": "i64"},
    tiles={
        "*": Tile({"BLOCK_M": 64, "BLOCK": 64}, 4, 3),
        "interpreter": Tile({"BLOCK_M": 32, "BLOCK": 32}),
    },
    constants=tuple(
        {k: v for k, v in c.items() if k != "CHUNKED"} | {"BIAS": c["GAIN"]}
        for c in (PLAIN, DORA, DROPOUT, CHUNKED)
    ),
    matmul=True,
)  # fmt: skip
