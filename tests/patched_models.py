"""Small models of five families under PEFT; patching one changes no loss and no gradient."""

from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

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


def check_family(family: str, dora: bool) -> None:
    model = adapted(family, use_dora=dora)
    theirs = loss_and_gradients(model, **batch())
    kinds = patch(model).kinds
    assert kinds["lora"] == sum(hasattr(m, "lora_A") for m in model.modules()) > 0
    assert kinds["rms_norm"] == 5 and kinds["rope"] == 2 and kinds["loss"] == 1
    assert kinds["swiglu"] == (0 if family == "Gemma" else 2)  # Gemma's gate is a GELU
    ours = loss_and_gradients(model, **batch())
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        stock = adapted(family, use_dora=dora).eval()(**batch()).logits
        torch.testing.assert_close(model.eval()(**batch()).logits, stock)
