"""What an exported graph computes: ids and mask in, logits out, and nothing else."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Logits(nn.Module):
    """int64 ids and mask [rows, length] to the model's logits."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(  # type: ignore[no-any-return]
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
