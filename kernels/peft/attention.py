"""Attention over several sequences in one row, without the products between them.

    out[q] = softmax over the k ≤ q of q's own sequence (q·k / √d) v

A batch padded to its longest row computes on padding. Packed, the rows lie end to end in one row of
positions that start anew; the linear layers see real tokens alone, and here each sequence is handed
to torch's scaled_dot_product_attention by itself, so its cost is the sum of the lengths' squares.

`register` names the function "trivet" in transformers' table of attentions. A call without
`cu_seq_lens_q` is transformers' own "sdpa".

Not covered: caches, and a kernel of our own: torch's is used on every device, once a sequence.
"""

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "trivet"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[B, S, H, D] from query [B, H, S, D], key and value [B, HK, S, D].

    `cu_seq_lens_q` int32 [sequences + 1], on the CPU: where in the one row (B = 1) each sequence
    starts, and the end. A model with a sliding window keeps its mask.
    """
    if cu_seq_lens_q is None:
        return cast(
            tuple[Tensor, None],
            sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs),
        )
    windowed = attention_mask is not None and kwargs.get("sliding_window")
    bounds = cu_seq_lens_q.tolist()
    parts = []
    for start, end in pairwise(bounds):
        q, k, v = (t[:, :, start:end] for t in (query, key, value))
        mask = attention_mask[..., start:end, start:end] if windowed else None  # type: ignore[index]
        parts.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    return torch.cat(parts, 1), None


def packed_rows(rows: list[Tensor]) -> dict[str, Tensor]:
    """A model's inputs: rows of tokens [1, tokens], end to end in one."""
    lengths = torch.tensor([0, *(row.shape[1] for row in rows)])
    positions = [torch.arange(row.shape[1], device=row.device)[None] for row in rows]
    return {
        "input_ids": torch.cat(rows, 1),
        "position_ids": torch.cat(positions, 1),
        "cu_seq_lens_q": lengths.cumsum(0).int(),
    }


def register() -> None:
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
