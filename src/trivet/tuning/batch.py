"""Examples as one padded batch, and the logits at the places where answers are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from trivet.tasks.example import Example


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Batch:
    """Right-padded int64 ids and mask [rows, length]; `row`, `position`: where answers are read."""

    ids: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor


def batch_of(
    examples: Sequence[Example], model: nn.Module | None = None, pad: int | None = None
) -> Batch:
    if model is not None:
        pad = cast(Any, model).config.pad_token_id
    length = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), length), pad or 0, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        ids[i, : len(example.ids)] = torch.tensor(example.ids)
        mask[i, : len(example.ids)] = 1
    row = torch.tensor([i for i, e in enumerate(examples) for _ in e.positions])
    position = torch.tensor([p for e in examples for p in e.positions])
    device = device_of(model) if model is not None else "cpu"
    return Batch(*(t.to(device) for t in (ids, mask, row, position)))


def gather_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits [answers, classes] of a batch; the stock classification head has pooled already."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    return logits if logits.dim() == 2 else logits[batch.row, batch.position]
