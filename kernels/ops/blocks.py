"""What the block quantisers share: the arithmetic of a code, in Triton and in plain torch, and what
makes a weight or a state fit to be used.

Not covered: what one format alone does; see its folder.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCKS = (32, 64, 128)  # of int4 and int8; NF4 has its own


@triton.jit
def spread(values, TIMES: tl.constexpr):
    """[rows, blocks] -> [rows, blocks·TIMES], each value TIMES times."""
    rows: tl.constexpr = values.shape[0]
    blocks: tl.constexpr = values.shape[1]
    return tl.broadcast_to(values[:, :, None], (rows, blocks, TIMES)).reshape(rows, blocks * TIMES)


@triton.jit
def nearest(x, top):
    """clamp(round(x), 0, top), halves away from zero; NaN gives 0. All float32."""
    x = tl.where(x > 0.0, x, 0.0)
    x = tl.where(x < top, x, top)
    whole = tl.floor(x)
    return tl.where(x - whole >= 0.5, whole + 1.0, whole)


@triton.jit
def inverse(scale):
    """1 / scale, and 0 for 0."""
    return tl.where(scale != 0.0, tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale), 0.0)


@triton.jit
def extreme(low, high, first):
    """Of min and max the one farther from 0; of zeros alone the `first`, for the sign of its 0."""
    farther = tl.where(high > -low, high, low)
    return tl.where(farther == 0.0, first, farther)


def away(x: Tensor, top: float = 15.0) -> Tensor:
    """clamp(round(x), 0, top), halves away from zero; NaN gives 0."""
    x = torch.where(x > 0, x, 0.0).clamp_(max=top)
    whole = x.floor()
    return whole + (x - whole >= 0.5)


def reciprocal(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for 0."""
    return torch.where(scale != 0, scale.reciprocal(), 0.0)


def scale_dtype(w: Tensor) -> torch.dtype:
    return torch.float16 if w.dtype == torch.float16 else torch.float32


def check_weight(w: Tensor) -> None:
    """ValueError unless `w` is a finite matrix of floats with elements."""
    if w.ndim != 2 or not w.numel():
        raise ValueError(f"w has shape {tuple(w.shape)}: give a matrix [N, K] with elements")
    if w.dtype not in DTYPES:
        raise ValueError(f"w is {w.dtype}: cast it to float32, float16 or bfloat16")
    if not w.is_meta and not bool(w.isfinite().all()):
        raise ValueError("w holds infinities or NaN, which have no place on a grid: look for why")


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
