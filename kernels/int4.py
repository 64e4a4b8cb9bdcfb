"""INT4 in blocks along a row, in the very bytes that ONNX Runtime's MatMulNBits reads (1.32).

What is tuned on this weight ships as an ONNX file without being quantised again. For a row of
w [N, K] and each block of B of it, min and max over the block:

    symmetric    d = −e / 8, e the one of min, max with the larger |·|, min on a tie    z = 8
    asymmetric   d = (max(max, 0) − min(min, 0)) / 15    z = clamp(round(−min(min, 0) / d), 0, 15)
    scale = d in w's dtype            q = clamp(round(w · (1 / scale) + z), 0, 15)
    w'    = (q − z) · scale           (in float32, then rounded to the dtype asked for)

round takes halves away from zero; 1/0 counts as 0; z is made with d before its rounding. packed
[N, ceil(K/B), B/2] has the even element in the low nibble and zeros after K; but after an odd K the
nibble repeats the one before it, as ONNX Runtime's code leaves it. zeros [N, ceil(blocks/2)] are
packed alike and filled up with 8. A float32 or bfloat16 weight has float32 scales.

Not covered: weights that are not finite (refused), the QDQ layout, blocks of 16 and 256.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .int4_kernels import (
    DEQUANTISE,
    QUANTISE,
    launch_dequantise,
    launch_quantise,
    repeat_nibble,
    scale_dtype,
)
from .int4_kernels import int4_tile as int4_tile
from .spec import Case, Dims, Op, Tensors, device

BLOCKS = (32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def plain_quantise(w: Tensor, block: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `launch_quantise`, by plain torch."""
    N, K = w.shape
    wide = F.pad(w.float(), (0, -K % block)).view(N, -1, block)
    low, high = wide.amin(2).clamp(max=0), wide.amax(2).clamp(min=0)
    zeros = torch.empty(N, 0, dtype=torch.uint8, device=w.device)
    z = torch.full_like(low, 8)
    if symmetric:
        step = torch.where(high > -low, high, low)
        step = torch.where(step == 0, wide[:, :, 0], step) * -0.125
    else:
        step = (high - low).abs() / torch.tensor(15.0, device=w.device)
        z = torch.where(step != 0, away(-low / step), 0.0)
        zeros = _pack(F.pad(z, (0, z.shape[1] % 2), value=8))
    scales = step.to(scale_dtype(w))
    q = away(wide * reciprocal(scales.float())[:, :, None] + z[:, :, None])
    q.view(N, -1)[:, K:] = 0
    return repeat_nibble(_pack(q), K), scales, zeros


def plain_dequantise(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, columns: int, dtype: torch.dtype
) -> Tensor:
    """As `launch_dequantise`, by plain torch."""
    q = torch.stack([packed & 15, packed >> 4], 3).view(*packed.shape[:2], -1).float()
    if zeros is None:
        q -= 8
    else:
        z = torch.stack([zeros & 15, zeros >> 4], 2).view(len(zeros), -1)
        q -= z[:, : packed.shape[1], None]
    return (
        (q * scales.float()[:, :, None]).view(len(packed), -1)[:, :columns].to(dtype).contiguous()
    )


def away(x: Tensor, top: float = 15.0) -> Tensor:
    """clamp(round(x), 0, top), halves away from zero; NaN gives 0."""
    x = torch.where(x > 0, x, 0.0).clamp_(max=top)
    whole = x.floor()
    return whole + (x - whole >= 0.5)


def reciprocal(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for 0."""
    return torch.where(scale != 0, scale.reciprocal(), 0.0)


def _pack(q: Tensor) -> Tensor:
    q = q.to(torch.uint8)
    return q[..., ::2] | q[..., 1::2] << 4


quantise_op = torch.library.custom_op(
    "trivet::int4_quantise", plain_quantise, mutates_args=(), device_types="cpu"
)
dequantise_op = torch.library.custom_op(
    "trivet::int4_dequantise", plain_dequantise, mutates_args=(), device_types="cpu"
)
quantise_op.register_kernel("cuda")(launch_quantise)
dequantise_op.register_kernel("cuda")(launch_dequantise)


@quantise_op.register_fake
def _(w, block, symmetric):
    N, blocks = w.shape[0], (w.shape[1] + block - 1) // block
    packed = w.new_empty(N, blocks, block // 2, dtype=torch.uint8)
    zeros = packed.new_empty(N, 0 if symmetric else (blocks + 1) // 2)
    return packed, w.new_empty(N, blocks, dtype=scale_dtype(w)), zeros


@dequantise_op.register_fake
def _(packed, scales, zeros, columns, dtype):
    return packed.new_empty(packed.shape[0], columns, dtype=dtype)


@dataclass(frozen=True)
class Int4:
    """A weight (N, K) in INT4: MatMulNBits' inputs B, scales and zero_points as they are.

    packed uint8 [N, blocks, block/2], scales float32 or float16 [N, blocks], zeros uint8
    [N, ceil(blocks/2)] or None when symmetric. Raises ValueError when these do not fit.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor | None
    shape: tuple[int, int]
    block: int = 32

    def __post_init__(self) -> None:
        _check(self)

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] in float32, float16 or bfloat16, in one launch on a GPU."""
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}: ask for float32, float16 or bfloat16")
        return dequantise_op(self.packed, self.scales, self.zeros, self.shape[1], dtype)


def quantise(w: Tensor, block: int = 32, symmetric: bool = True) -> Int4:
    """`w` [N, K] (float32, float16, bfloat16) in INT4.

    Raises ValueError when w is not such a matrix, is empty or not finite, or block not in BLOCKS.
    """
    check_weight(w)
    if block not in BLOCKS:
        raise ValueError(f"block = {block}: INT4 has blocks of {BLOCKS}")
    packed, scales, zeros = quantise_op(w.detach().contiguous(), block, symmetric)
    return Int4(packed, scales, None if symmetric else zeros, (w.shape[0], w.shape[1]), block)


def check_weight(w: Tensor) -> None:
    """ValueError unless `w` is a finite matrix of floats with elements."""
    if w.ndim != 2 or not w.numel():
        raise ValueError(f"w has shape {tuple(w.shape)}: give a matrix [N, K] with elements")
    if w.dtype not in DTYPES:
        raise ValueError(f"w is {w.dtype}: cast it to float32, float16 or bfloat16")
    if not w.is_meta and not bool(w.isfinite().all()):
        raise ValueError("w holds infinities or NaN, which have no place on a grid: look for why")


def _check(state: Int4) -> None:
    """ValueError unless each tensor has the shape, dtype and device it must have."""
    if len(state.shape) != 2 or min(state.shape) < 1:
        raise ValueError(f"shape is {state.shape}: INT4 keeps a matrix (N, K) with elements")
    if state.block not in BLOCKS:
        raise ValueError(f"block = {state.block}: INT4 has blocks of {BLOCKS}")
    N, blocks = state.shape[0], -(-state.shape[1] // state.block)
    expect("packed", state.packed, (N, blocks, state.block // 2), (torch.uint8,), state.packed)
    expect("scales", state.scales, (N, blocks), (torch.float32, torch.float16), state.packed)
    if state.zeros is not None:
        expect("zeros", state.zeros, (N, (blocks + 1) // 2), (torch.uint8,), state.packed)
    finite("scales", state.scales)


def expect(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], like: Tensor
) -> None:
    """ValueError unless `tensor` is of `shape`, contiguous, of one of `dtypes`, where `like` is."""
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, but this weight asks for "
            f"{' or '.join(map(str, dtypes))} {shape}: the state is damaged"
        )
    if tensor.device != like.device or not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous and on {like.device}, as the other tensors")


def finite(name: str, tensor: Tensor) -> None:
    """ValueError if values are not finite; looked at on the CPU alone, so as not to wait."""
    here = tensor.device.type == "cpu" and not torch.compiler.is_compiling()
    if here and not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} holds infinities or NaN: the state is damaged")


def quantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The bytes are compared with plain torch's, which the tests compare with ONNX Runtime's."""
    given = (_draw(dims, dtype, seed), dims["block"], bool(dims["symmetric"]))
    plain = lambda: plain_quantise(*given)  # noqa: E731
    return Case(ours=lambda: launch_quantise(*given), eager=plain, truth=plain)


def dequantise_case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """As `quantise_case`; the truth is the float32 result, which no other precision betters."""
    s = quantise(_draw(dims, dtype, seed), dims["block"], bool(dims["symmetric"]))
    state = (s.packed, s.scales, s.zeros, s.shape[1])

    def plain(to: torch.dtype) -> Tensors:
        return (plain_dequantise(*state, to),)

    return Case(
        ours=lambda: (launch_dequantise(*state, dtype),),
        eager=lambda: plain(dtype),
        truth=lambda: plain(torch.float32),
    )


def _draw(dims: Dims, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal weights, off centre, one block of them zeros where there is room."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(dims["N"], dims["K"], generator=draw) + torch.randn(
        dims["N"], 1, generator=draw
    )
    w[:, dims["block"] : 2 * dims["block"]] = 0
    return w.to(dtype).to(device())


_DIMS = {"N": (1, 3, 9), "K": (1, 31, 64, 65, 300, 600), "block": BLOCKS, "symmetric": (0, 1)}
OPS = [
    Op("int4_quantise", (QUANTISE,), quantise_case, _DIMS, launches=1, error=0),
    Op("int4_dequantise", (DEQUANTISE,), dequantise_case, _DIMS, launches=1, error=0),
]
