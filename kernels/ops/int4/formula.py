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

import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.kernels.ops.blocks import away, reciprocal, scale_dtype


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


def _pack(q: Tensor) -> Tensor:
    q = q.to(torch.uint8)
    return q[..., ::2] | q[..., 1::2] << 4


def repeat_nibble(packed: Tensor, K: int) -> Tensor:
    """Sets the unused nibble after an odd K as ONNX Runtime does; it takes two blocks at a time."""
    byte, block = K // 2, packed.shape[2] * 2
    if K % 2 and (K - 1) % (2 * block):
        flat = packed.view(len(packed), -1)
        flat[:, byte] |= flat[:, byte - 1] & 0xF0
    return packed
