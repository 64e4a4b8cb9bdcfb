"""The kernels under stock PEFT models: same losses, same gradients, and out again without a trace.

Run: .venv/bin/pytest tests/test_patch.py
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trivet.kernels import patch

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "Llama": {},
    "Phi3": {},
    "Qwen2": {},
    "Mistral": {"sliding_window": 5},
    "Gemma": {"head_dim": 16},
}


def adapted(family: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    shape = getattr(transformers, f"{family}Config")(**SMALL | FAMILIES[family])
    base = getattr(transformers, f"{family}ForCausalLM")(shape)
    lora = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config)
    model = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model.train()


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 300, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model: nn.Module, **inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_pefts(family: str, dora: bool) -> None:
    model = adapted(family, use_dora=dora)
    theirs = loss_and_gradients(model, **batch())
    kinds = patch.patch(model)
    assert kinds["lora"] == sum(hasattr(m, "lora_A") for m in model.modules()) > 0
    assert kinds["rms_norm"] == 5 and kinds["rope"] == 2 and kinds["loss"] == 1
    assert kinds["swiglu"] == (0 if family == "Gemma" else 2)  # Gemma's gate is a GELU
    ours = loss_and_gradients(model, **batch())
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        stock = adapted(family, use_dora=dora).eval()(**batch()).logits
        torch.testing.assert_close(model.eval()(**batch()).logits, stock)


def test_unpatch_leaves_no_trace() -> None:
    model = adapted("Llama")
    state = {n: set(m.__dict__) for n, m in model.named_modules()}
    patch.patch(model)
    assert any(set(m.__dict__) != state[n] for n, m in model.named_modules())
    patch.unpatch(model)
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == state
    assert model.config._attn_implementation == "sdpa"


def test_what_the_kernels_do_not_cover_is_left_to_peft() -> None:
    """Merged, disabled, two adapters at once, DoRA with dropout."""
    model = adapted("Llama")
    plain, inputs = copy.deepcopy(model), batch()
    patch.patch(model)
    for change in ("merge_adapter", "unmerge_adapter", "disable_adapter_layers"):
        for m in (model, plain):
            getattr(m.base_model, change)()
        torch.testing.assert_close(model(**inputs).loss, plain(**inputs).loss)
    for m in (model, plain):
        m.base_model.enable_adapter_layers()
        m.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
        m.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(model(**inputs).loss, plain(**inputs).loss)

    dropped = adapted("Llama", use_dora=True, lora_dropout=0.5)
    torch.manual_seed(3)
    theirs = dropped(**inputs).loss
    patch.patch(dropped)
    torch.manual_seed(3)
    torch.testing.assert_close(dropped(**inputs).loss, theirs)


def test_dropout_goes_with_the_seed_and_with_training() -> None:
    model = adapted("Llama", lora_dropout=0.5)
    patch.patch(model)
    inputs, losses = batch(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(**inputs).loss.item())
    assert losses[0] == losses[1] != losses[2]
    model.eval()
    assert torch.equal(model(**inputs).loss, model(**inputs).loss)


def test_packed_rows_learn_as_padded_ones() -> None:
    """Three rows end to end in one, with positions that start anew, have the same gradients."""
    model = adapted("Mistral")  # its window is shorter than the rows
    patch.patch(model)
    inputs = batch()
    theirs = loss_and_gradients(model, **inputs)
    lengths = inputs["attention_mask"].sum(1)
    keep = inputs["attention_mask"].bool()
    labels = inputs["labels"][keep].clone()
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ours = loss_and_gradients(
        model,
        input_ids=inputs["input_ids"][keep][None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        labels=labels[None],
        cu_seq_lens_q=bounds.int(),
    )
    torch.testing.assert_close(ours, theirs)


def test_the_adapter_stays_pefts(tmp_path: Path) -> None:
    model = adapted("Llama")
    patch.patch(model)
    loss_and_gradients(model, **batch())
    with torch.no_grad():
        logits = model.eval()(**batch()).logits
    model.save_pretrained(tmp_path)
    base = adapted("Llama").unload()
    with torch.no_grad():
        stock = PeftModel.from_pretrained(base, tmp_path).eval()(**batch()).logits
    torch.testing.assert_close(logits, stock)


def test_a_base_that_bitsandbytes_holds_in_four_bits(tmp_path: Path) -> None:
    """Against stock PEFT on a dense base of the same values: bitsandbytes' own product on the CPU
    is off by 2e-3 here."""
    adapted("Llama").unload().save_pretrained(tmp_path)
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=four)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).train()
    dense = adapted("Llama")
    dense.load_state_dict(
        {n: p for n, p in model.state_dict().items() if p.is_floating_point()}, strict=False
    )
    for name, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), Params4bit):
            values = dequantize_4bit(module.weight.data, module.weight.quant_state)
            dense.get_submodule(name).weight.data = values
    kinds = patch.patch(model)
    assert kinds["lora"] == 14
    inputs = batch()
    torch.testing.assert_close(
        loss_and_gradients(model, **inputs), loss_and_gradients(dense, **inputs)
    )
