"""The kernels under stock PEFT models: same losses, same gradients, and out again without a trace.

Run: .venv/bin/pytest tests/unit/kernels/test_patch.py
"""

import copy
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from patched_models import FAMILIES, adapted, batch, check_family, loss_and_gradients
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trivet.kernels import patch, unpatch


@pytest.mark.parametrize(
    "family, dora", [*((family, False) for family in FAMILIES), ("Llama", True)]
)
def test_losses_and_gradients_are_pefts(family: str, dora: bool) -> None:
    """DoRA in all families is in tests/compile/test_gradient_sweep.py."""
    check_family(family, dora)


def test_unpatch_leaves_no_trace() -> None:
    model = adapted("Llama")
    state = {n: set(m.__dict__) for n, m in model.named_modules()}
    patch(model)
    assert any(set(m.__dict__) != state[n] for n, m in model.named_modules())
    unpatch(model)
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == state
    assert model.config._attn_implementation == "sdpa"


def test_what_the_kernels_do_not_cover_is_left_to_peft() -> None:
    """Merged, disabled, two adapters at once, DoRA with dropout."""
    model = adapted("Llama")
    plain, inputs = copy.deepcopy(model), batch()
    patch(model)
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
    patch(dropped)
    torch.manual_seed(3)
    torch.testing.assert_close(dropped(**inputs).loss, theirs)


def test_dropout_goes_with_the_seed_and_with_training() -> None:
    model = adapted("Llama", lora_dropout=0.5)
    patch(model)
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
    patch(model)
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
    patch(model)
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
    kinds = patch(model).kinds
    assert kinds["lora"] == 14
    inputs = batch()
    torch.testing.assert_close(
        loss_and_gradients(model, **inputs), loss_and_gradients(dense, **inputs)
    )
