"""A batch's loss, in the one way in which tuning, validation and the trial of the kernels take it.

Not covered: losses other than the mean cross-entropy of answers.
"""

from typing import cast

import torch
from peft import PeftModel, PeftModelForCausalLM
from torch import Tensor
from torch.nn import functional as F

from trivet.kernels.peft.attention import NAME as PACKED
from trivet.tasks.example import Example
from trivet.tuning.batch import batch_of, device_of, gather_logits


def loss_of(model: PeftModel, batch: list[Example]) -> torch.Tensor:
    """Mean cross-entropy over the batch's answers, in float32.

    A language model makes its loss itself, over labels: with our kernels it never holds the logits
    of all tokens, and its rows lie end to end in one.
    """
    if isinstance(model, PeftModelForCausalLM):
        packed = model.config._attn_implementation == PACKED
        return cast(Tensor, model(**labelled(batch, model, packed)).loss).float()
    targets = torch.tensor([t for e in batch for t in e.targets], device=device_of(model))
    return F.cross_entropy(
        gather_logits(model, batch_of(batch, model)).float(), targets, ignore_index=-1
    )


def labelled(batch: list[Example], model: PeftModel, packed: bool) -> dict[str, Tensor]:
    """A language model's inputs: ids, labels and either a mask or, `packed`, positions [1, tokens].

    labels [rows, length]: the target at the position after the one that answers, else -100.
    """
    padded = batch_of(batch, model)
    targets = torch.tensor([t for e in batch for t in e.targets], device=device_of(model))
    labels = torch.full_like(padded.ids, -100)
    labels[padded.row, padded.position + 1] = torch.where(targets < 0, -100, targets)
    if not packed:
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "labels": labels}
    real = padded.mask.bool()
    lengths = padded.mask.sum(1)
    return {
        "input_ids": padded.ids[real][None],
        "labels": labels[real][None],
        "position_ids": (padded.mask.cumsum(1) - 1)[real][None],
        "cu_seq_lens_q": F.pad(lengths.cumsum(0), (1, 0)).int().cpu(),
    }
