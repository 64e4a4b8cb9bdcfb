"""LoRA on the small architectures, rows to tune them on, and how near a step is to float64's."""

import random
from typing import Any, cast

import torch
from architectures import PAD, VOCABULARY, Architecture
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trivet.records.trial import Trial
from trivet.tasks.example import Example
from trivet.tuning.loss import loss_of
from trivet.tuning.trial import trial

GENERATE, CLASSIFY = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
TYPES = {GENERATE: "CAUSAL_LM", CLASSIFY: "SEQ_CLS"}
HEADS = {"score", "classifier", "pre_classifier", "lm_head", "embed_out"}
ROUNDINGS = 128**0.5 * torch.finfo(torch.float32).eps  # of a product over these models' widths
# PEFT refuses the first two on models with a state, and a router's result is no tensor
LEFT = {"out_proj", "conv1d", "gate", "router", "logits_proj"}


def adapted(architecture: Architecture, head: str, half: bool = False) -> PeftModel:
    """Random LoRA matrices, B's too, on all linear layers that PEFT can adapt."""
    base = architecture.model(head)
    if getattr(base.config, "pad_token_id", None) is None:
        base.config.pad_token_id = PAD
    linears = [n for n, m in base.named_modules() if isinstance(m, (nn.Linear, Conv1D))]
    targets = [name for name in linears if name.split(".")[-1] not in HEADS | LEFT]
    config = LoraConfig(r=4, task_type=TYPES[head], target_modules=targets)
    if half:
        base = base.to(torch.bfloat16)
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    return model.train()


def batches(head: str, seed: int, count: int = 2) -> list[list[Example]]:
    """`count` batches of four rows of random tokens, 9 to 23 long."""
    draw = random.Random(seed)
    return [
        sorted((_row(head, draw) for _ in range(4)), key=lambda row: len(row.ids))
        for _ in range(count)
    ]


def _row(head: str, draw: random.Random) -> Example:
    length = draw.randrange(9, 24)
    ids = [draw.randrange(3, VOCABULARY) for _ in range(length)]
    if head == CLASSIFY:
        return Example(ids, [length - 1], [draw.randrange(2)])
    return Example(ids, list(range(4, length - 1)), ids[5:])


def step(model: PeftModel, rows: list[Example]) -> Tensor:
    """Loss and all gradients of the product's own loss, dropout off, as one float64 vector."""
    model.eval()
    model.get_base_model().training = True  # where a language model's loss is made
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, rows)
    loss.backward()
    trained = [w for w in model.parameters() if w.requires_grad]
    grads = [w.grad if w.grad is not None else torch.zeros_like(w) for w in trained]
    return torch.cat([loss.detach().double().view(1), *(g.double().flatten() for g in grads)])


def distances(
    architecture: Architecture, head: str, model: PeftModel, rows: list[Example]
) -> tuple[float, float]:
    """How far the step of `model` as it is, and that of stock PEFT, are from float64's; relative.

    Where float64 does not run (a mask that only float32 holds), from stock PEFT's in float32.
    """
    theirs, ours = step(adapted(architecture, head), rows), step(model, rows)
    exact = adapted(architecture, head).double()
    cast(Any, exact.config)._experts_implementation = "eager"  # the fast one has no float64
    try:
        truth = step(exact, rows)
    except (RuntimeError, TypeError):
        truth = theirs
    if not truth.isfinite().all():
        truth = theirs
    size = float(truth.norm())
    return float((ours - truth).norm()) / size, float((theirs - truth).norm()) / size


def check_architecture(architecture: Architecture, head: str) -> Trial:
    """On the kernels that the trial leaves, a step on other rows is stock PEFT's.

    Tolerance: as far from float64 as 8 times stock PEFT is, and as 8 roundings of a product.
    """
    model = adapted(architecture, head)
    verdict = trial(model, batches(head, 0), half=False)
    ours, theirs = distances(architecture, head, model, batches(head, 1, 1)[0])
    assert ours <= 8 * max(theirs, ROUNDINGS), verdict
    assert verdict.compared and verdict.packed == (model.config._attn_implementation == "trivet")
    return verdict
