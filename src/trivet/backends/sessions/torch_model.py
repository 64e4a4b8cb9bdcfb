"""A language model open in torch, on the GPU where there is one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from trivet.backends.sessions.language_model import LanguageModel
from trivet.records.card import Card
from trivet.tasks.example import Example
from trivet.tasks.tokenizer import eos_ids
from trivet.tuning.batch import batch_of, device_of, gather_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TorchModel(LanguageModel):
    def __init__(self, model: nn.Module, tokenizer: "PreTrainedTokenizerBase", card: Card) -> None:
        config = getattr(model, "generation_config", None)
        super().__init__(tokenizer, card, eos_ids(getattr(config, "eos_token_id", None)))
        self.model = model.eval()

    @torch.inference_mode()
    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        return gather_logits(self.model, batch_of(examples, self.model)).float().cpu().numpy()

    @torch.inference_mode()
    def generate(self, ids: list[int], tokens: int) -> list[int]:
        """By transformers itself, with its key-value cache."""
        prompt = torch.tensor([ids], device=device_of(self.model))
        out = cast(Any, self.model).generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.stops,
        )
        reply: list[int] = out[0, len(ids) :].tolist()
        return reply[:-1] if reply and reply[-1] in self.stops else reply
