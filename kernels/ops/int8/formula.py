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

import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.kernels.ops.blocks import away, reciprocal, scale_dtype

OVER_127 = 7.874015718698502e-3  # 1/127 in float32, as bitsandbytes writes it


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
