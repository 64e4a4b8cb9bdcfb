"""INT8, one scale for a row or for a block of a row; zero stays zero, so there are no zero points.

By row it is the weight of LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), with the bytes of
bitsandbytes' int8_vectorwise_quant on the CPU; scale is the row's largest |w|:

    q = round(w · (127 · (1 / scale)))   halves to even, 0 where that is not finite
    w' = (q · scale) · (1/127)

In blocks of B it is what ONNX Runtime's MatMulNBits takes for bits = 8 without zero points, less
the 128 that it adds to each byte; e is the one of the block's min and max with the larger |·|:

    scale = −e / 128, in w's dtype       q = clamp(round(w · (1/scale) + 128), 0, 255) − 128
    w' = q · scale                       halves away from zero; 1/0 counts as 0

All in float32, then rounded to the dtype asked for. A float32 or bfloat16 weight has float32
scales.

Not covered: weights that are not finite (refused), outlier columns, zero points, a product.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from .int4 import BLOCKS, DTYPES, away, check_weight, expect, finite, reciprocal
from .int4_kernels import extreme, inverse, nearest, scale_dtype
from .spec import Case, Dims, Kernel, Op, Tensors, Tile, device

OVER_127 = 7.874015718698502e-3  # 1/127 in float32, as bitsandbytes writes it
_OVER_127 = tl.constexpr(OVER_127)


@triton.jit
def int8_row_kernel(w_ptr, q_ptr, scale_ptr, K, ELEMENTS: tl.constexpr):
    """One row a program, in two passes."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((ELEMENTS,), tl.float32)
    for k0 in range(0, K, ELEMENTS):
        k = k0 + tl.arange(0, ELEMENTS)
        w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(w))
    scale = tl.max(largest, 0)
    tl.store(scale_ptr + row, scale)
    factor = tl.div_rn(tl.full((1,), 1.0, tl.float32), tl.zeros((1,), tl.float32) + scale) * 127.0
    for k0 in range(0, K, ELEMENTS):
        k = k0 + tl.arange(0, ELEMENTS)
        w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
        x = w * factor
        x = tl.where(tl.abs(x) < 128.0, x, 0.0)  # not left to the cast: a GPU's saturates
        x = (x + 12582912.0) - 12582912.0  # 1.5·2²³: its unit is one, so the sum rounds to even
        tl.store(q_ptr + row * K + k, x.to(tl.int8), mask=k < K)


@triton.jit
def int8_block_kernel(
    w_ptr, q_ptr, scale_ptr, K, blocks, BLOCK: tl.constexpr, ELEMENTS: tl.constexpr
):
    """ELEMENTS // BLOCK blocks of one row a program."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * (ELEMENTS // BLOCK) + tl.arange(0, ELEMENTS // BLOCK)
    k = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = block < blocks
    w = tl.load(w_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    first = tl.load(w_ptr + row * K + block * BLOCK, mask=inside, other=0.0).to(tl.float32)
    step = extreme(tl.min(w, 1), tl.max(w, 1), first) * -0.0078125
    scale = step.to(scale_ptr.dtype.element_ty)
    tl.store(scale_ptr + row * blocks + block, scale, mask=inside)
    q = nearest(w * inverse(scale.to(tl.float32))[:, None] + 128.0, 255.0) - 128.0
    tl.store(q_ptr + row * K + k, q.to(tl.int8), mask=k < K)


@triton.jit
def int8_dequantise_kernel(
    q_ptr, scale_ptr, out_ptr, K, blocks, BLOCK: tl.constexpr, ELEMENTS: tl.constexpr
):
    """ELEMENTS of one row a program; BLOCK = 0 is one scale for the row."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    q = tl.load(q_ptr + row * K + k, mask=k < K, other=0).to(tl.float32)
    if BLOCK:
        at = scale_ptr + row * blocks + k // BLOCK
        w = q * tl.load(at, mask=k < K, other=0.0).to(tl.float32)
    else:
        w = q * tl.load(scale_ptr + row) * _OVER_127
    tl.store(out_ptr + row * K + k, w.to(out_ptr.dtype.element_ty), mask=k < K)


_TILES = {"*": Tile({"ELEMENTS": 2048}, warps=4), "interpreter": Tile({"ELEMENTS": 256})}
_STATE = {"q_ptr": "*i8", "scale_ptr": "*fp32"}
_SIZES = {"K": "i32", "blocks": "i32"}
ROW = Kernel(int8_row_kernel, {"w_ptr": "*bf16", **_STATE, "K": "i32"}, _TILES, exact=True)
BLOCK = Kernel(
    int8_block_kernel, {"w_ptr": "*bf16", **_STATE, **_SIZES}, _TILES,
    ({"BLOCK": 32}, {"BLOCK": 128}), exact=True,
)  # fmt: skip
DEQUANTISE = Kernel(
    int8_dequantise_kernel, {**_STATE, "out_ptr": "*bf16", **_SIZES}, _TILES,
    ({"BLOCK": 0}, {"BLOCK": 32}, {"BLOCK": 128}), exact=True,
)  # fmt: skip


def launch_quantise(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """values and scales of a contiguous `w`, by the kernel; block = 0 is by row."""
    N, K = w.shape
    q = torch.empty(N, K, dtype=torch.int8, device=w.device)
    if not block:
        scales = torch.empty(N, dtype=torch.float32, device=w.device)
        ROW.launch(lambda t: (N,), w, q, scales, K)
        return q, scales
    blocks = triton.cdiv(K, block)
    scales = torch.empty(N, blocks, dtype=scale_dtype(w), device=w.device)
    BLOCK.launch(lambda t: (N, triton.cdiv(K, t["ELEMENTS"])), w, q, scales, K, blocks, BLOCK=block)
    return q, scales


def launch_dequantise(q: Tensor, scales: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """w' [N, K] in `dtype`, by one launch of the kernel."""
    N, K = q.shape
    out = torch.empty(N, K, dtype=dtype, device=q.device)
    blocks = scales.shape[1] if block else 1
    DEQUANTISE.launch(
        lambda t: (N, triton.cdiv(K, t["ELEMENTS"])), q, scales, out, K, blocks, BLOCK=block
    )
    return out


def plain_quantise(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """As `launch_quantise`, by plain torch."""
    wide, (N, K) = w.float(), w.shape
    if not block:
        scales = wide.abs().amax(1)
        x = wide * (scales.reciprocal() * 127)[:, None]
        return torch.where(x.abs() < 128, x, 0.0).round_().to(torch.int8), scales
    wide = F.pad(wide, (0, -K % block)).view(N, -1, block)
    low, high = wide.amin(2), wide.amax(2)
    step = torch.where(high > -low, high, low)
    step = torch.where(step == 0, wide[:, :, 0], step) * -0.0078125
    scales = step.to(scale_dtype(w))
    q = away(wide * reciprocal(scales.float())[:, :, None] + 128, 255.0) - 128
    return q.view(N, -1)[:, :K].to(torch.int8), scales


def plain_dequantise(q: Tensor, scales: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """As `launch_dequantise`, by plain torch."""
    if not block:
        return (q.float() * scales[:, None] * OVER_127).to(dtype)
    wide = F.pad(q.float(), (0, -q.shape[1] % block)).view(len(q), -1, block)
    w = (wide * scales.float()[:, :, None]).view(len(q), -1)
    return w[:, : q.shape[1]].to(dtype).contiguous()


quantise_op = torch.library.custom_op(
    "trivet::int8_quantise", plain_quantise, mutates_args=(), device_types="cpu"
)
dequantise_op = torch.library.custom_op(
    "trivet::int8_dequantise", plain_dequantise, mutates_args=(), device_types="cpu"
)
quantise_op.register_kernel("cuda")(launch_quantise)
dequantise_op.register_kernel("cuda")(launch_dequantise)


@quantise_op.register_fake
def _(w, block):
    q = w.new_empty(w.shape, dtype=torch.int8)
    if not block:
        return q, w.new_empty(w.shape[0], dtype=torch.float32)
    blocks = (w.shape[1] + block - 1) // block
    return q, w.new_empty(w.shape[0], blocks, dtype=scale_dtype(w))


@dequantise_op.register_fake
def _(q, scales, block, dtype):
    return q.new_empty(q.shape, dtype=dtype)


@dataclass(frozen=True)
class Int8:
    """A weight (N, K) in INT8. Raises ValueError when the tensors do not fit.

    values int8 [N, K]. scales float32 [N] by row (block = 0), or float32 or float16 [N, blocks].
    """

    values: Tensor
    scales: Tensor
    block: int = 0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.numel():
            raise ValueError(f"values has shape {tuple(self.values.shape)}: INT8 keeps a matrix")
        _check_block(self.block)
        N, K = self.values.shape
        expect("values", self.values, (N, K), (torch.int8,), self.values)
        if self.block:
            shape: tuple[int, ...] = (N, -(-K // self.block))
            expect("scales", self.scales, shape, (torch.float32, torch.float16), self.values)
        else:
            expect("scales", self.scales, (N,), (torch.float32,), self.values)
        finite("scales", self.scales)

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] in float32, float16 or bfloat16, in one launch on a GPU."""
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}: ask for float32, float16 or bfloat16")
        return dequantise_op(self.values, self.scales, self.block, dtype)

    def matmul_nbits(self) -> Tensor:
        """MatMulNBits' input B, uint8 [N, blocks, block]; its scales are `scales`.

        Raises ValueError for a weight quantised by row, which it does not know.
        """
        if not self.block:
            raise ValueError("MatMulNBits takes blocks: quantise with a block, not by row")
        raised = self.values.view(torch.uint8) ^ 0x80
        padded = F.pad(raised, (0, -raised.shape[1] % self.block))
        return padded.view(len(raised), -1, self.block)


def quantise(w: Tensor, block: int = 0) -> Int8:
    """`w` [N, K] (float32, float16, bfloat16) in INT8, by row or in blocks of `block`.

    Raises ValueError when w is not such a matrix, is empty or not finite, or block is unknown.
    """
    check_weight(w)
    _check_block(block)
    values, scales = quantise_op(w.detach().contiguous(), block)
    return Int8(values, scales, block)


def _check_block(block: int) -> None:
    if block not in (0, *BLOCKS):
        raise ValueError(f"block = {block}: INT8 has blocks of {BLOCKS}, or 0 for one scale a row")


def quantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The bytes are compared with plain torch's, which the tests compare with other libraries'."""
    given = (_draw(dims, dtype, seed), dims["block"])
    plain = lambda: plain_quantise(*given)  # noqa: E731
    return Case(ours=lambda: launch_quantise(*given), eager=plain, truth=plain)


def dequantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """As `quantise_case`; the truth is the float32 result, which no other precision betters."""
    s = quantise(_draw(dims, dtype, seed), dims["block"])

    def plain(to: torch.dtype) -> Tensors:
        return (plain_dequantise(s.values, s.scales, s.block, to),)

    return Case(
        ours=lambda: (launch_dequantise(s.values, s.scales, s.block, dtype),),
        eager=lambda: plain(dtype),
        truth=lambda: plain(torch.float32),
    )


def _draw(dims: Dims, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal weights, the first row zeros when there are others."""
    w = torch.randn(dims["N"], dims["K"], generator=torch.Generator().manual_seed(seed))
    w[: dims["N"] // 3] = 0
    return w.to(dtype).to(device())


_DIMS = {"N": (1, 3, 9), "K": (1, 31, 64, 65, 300, 600), "block": (0, *BLOCKS)}
OPS = [
    Op("int8_quantise", (ROW, BLOCK), quantise_case, _DIMS, launches=1, error=0),
    Op("int8_dequantise", (DEQUANTISE,), dequantise_case, _DIMS, launches=1, error=0),
]
