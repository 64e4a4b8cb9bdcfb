"""NF4: a frozen weight in four bits, byte for byte as bitsandbytes 0.50.2 stores it on the CPU.

A QLoRA checkpoint must mean the same weight here, on the GPU and in the library that wrote it. A
weight w [N, K], flat, in blocks of B elements; L: the 16 levels, M: their 15 midpoints:

    a_b    = max |w_i|     s_i = w_i · (1 / max(a_b, 1e-38))     q_i = #{j: s_i > M_j}
    packed = q_0 << 4 | q_1, …              (high nibble first; an odd end is filled up with s = 0)
    w'_i   = L[q_i] · a_b                   (in float32, then rounded to the dtype asked for)

A last block that is not whole has s_i = w_i / a_b and a_b = max(max |w_i|, 1e-38). A NaN gets
q = 15. Double quantisation keeps a in 8 bits, in groups of 256 blocks, around its mean o:

    a_b    = D[c_b] · absmax2_g + o         (D: the dynamic map; a product, rounded, and then a sum)

Dequantisation does both in one launch. Quantisation of a is plain torch: N·K/B numbers, once. c_b
is not always the nearest code: bitsandbytes looks it up in a table of 65,536 places.

Blocks of zeros, denormals and infinities are byte-equal. As in bitsandbytes an infinity makes the
finite elements of its block NaN, and with double quantisation the whole weight. A NaN stays NaN,
its payload is not promised. Where bitsandbytes disagrees with itself this follows its portable
code: its AVX-512 code scales by the wrong block when K is no multiple of B, and flushes denormal
bfloat16; its scalar code makes some NaN a bfloat16 0.

Not covered: FP4; the CUDA and ARM quantisers of bitsandbytes, which round some c_b otherwise; the
mean o depends on the device and the number of threads that sum it, as it does there.
"""

import torch
from torch import Tensor

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
GROUP = 256  # blocks that share one absmax2
BITS = 4 + 8 / 64 + 32 / (64 * GROUP)  # of an element, in doubly quantised blocks of 64

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_levels = torch.tensor(LEVELS)
MIDPOINTS = tuple(((_levels[:-1] + _levels[1:]) / 2).tolist())


def plain_quantise(w: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """packed and absmax of `w`, by plain torch."""
    flat = w.reshape(-1).float()
    n, tail = flat.numel(), flat.numel() % block
    blocks = torch.nn.functional.pad(flat, (0, -n % block)).view(-1, block)
    absmax = blocks.abs().amax(1)
    raised = absmax.clamp(min=1e-38)
    s = blocks * (1.0 / raised)[:, None]
    if tail:
        s[-1] = blocks[-1] / raised[-1]
        absmax[-1] = raised[-1]
        s.view(-1)[n:] = 0
    edges = torch.tensor(MIDPOINTS, device=w.device)
    q = torch.bucketize(s.view(-1)[: n + n % 2], edges, out_int32=True).to(torch.uint8)
    return q[::2] << 4 | q[1::2], absmax


def plain_dequantise(
    packed: Tensor, absmax: Tensor, code: Tensor | None, absmax2: Tensor | None,
    offset: Tensor | None, rows: int, columns: int, block: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """w'[rows, columns] in `dtype`, by plain torch."""
    if absmax2 is not None:
        assert code is not None and offset is not None
        group = absmax2.repeat_interleave(GROUP)[: len(absmax)]
        absmax = code[absmax.int()] * group + offset
    whole = torch.nn.functional.pad(packed, (0, len(absmax) * block // 2 - len(packed)))
    byte, levels = torch.arange(256), torch.tensor(LEVELS)
    pairs = levels[torch.stack([byte >> 4, byte & 15], 1)].to(packed.device)
    w = pairs.index_select(0, whole.int()).view(-1, block).mul_(absmax[:, None])
    return w.view(-1)[: rows * columns].view(rows, columns).to(dtype)
