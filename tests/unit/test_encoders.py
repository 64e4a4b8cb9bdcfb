"""Heads of every kind: found, trained, saved; encoders tag a word at its own token.

Models are random and small (tests/architectures.py); what must be found in them is written here.

Run: pytest tests/unit/test_encoders.py
"""

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES
from peft import PeftModel
from transformers import AutoModelForMaskedLM, AutoTokenizer

from trivet.config.data import Data, Model
from trivet.plugins import TASKS
from trivet.tasks.tokenizer import around
from trivet.tuning import base, head
from trivet.tuning.methods.lora import Lora

HEADS = {
    "bert": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "roberta": ["classifier"],  # of dense and out_proj
    "modernbert": ["head", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "mpnet": ["classifier"],
    "electra": ["classifier"],
    "gpt2": ["score"],
    "llama": ["score"],
}


@pytest.fixture(scope="module")
def minilm() -> Path:
    return base.base_folder(base.resolve(Model(base="all-minilm-l6-v2")))


@pytest.mark.parametrize("name", HEADS)
def test_the_whole_head_is_trained_saved_and_read_again(name: str, tmp_path: Path) -> None:
    task = TASKS["classify"]
    model = ARCHITECTURES[name].model(task.head, num_labels=3)
    head.remember_new(model, set())
    assert head.new_modules(model) == HEADS[name]
    linear = head.last_linear(model)
    assert linear is not None and linear.out_features == 3
    adapted = Lora(rank=2).adapt(model, task)
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    within = {n for n in trained if ".modules_to_save." in n}
    size = sum(
        p.numel() for m in HEADS[name] for p in getattr(model, m).modules_to_save.parameters()
    )
    assert sum(p.numel() for n, p in adapted.named_parameters() if n in within) == size
    assert not any(".lora_" in n for n in within) and trained - within
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    adapted.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(
        ARCHITECTURES[name].model(task.head, num_labels=3), str(tmp_path)
    )
    state = dict(again.named_parameters())
    for key, value in adapted.named_parameters():
        assert not value.requires_grad or torch.equal(state[key], value), key


def test_a_pooler_that_was_never_saved_is_new_as_well(minilm: Path, tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(minilm).save_pretrained(tmp_path)  # it has no pooler
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    for folder, names in (
        (minilm, ["classifier"]),
        (tmp_path, ["classifier", "bert.pooler.dense"]),
    ):
        model = base.load(folder, TASKS["classify"], ["a", "b"])
        assert head.new_modules(model) == names


def test_gpt2s_layers_are_adapted_and_merge(tmp_path: Path) -> None:
    """Conv1D holds its weight transposed."""
    task = TASKS["generate"]
    model = ARCHITECTURES["gpt2"].model(task.head)
    coverage = Lora(rank=2).coverage(ARCHITECTURES["gpt2"].model(task.head), task)
    assert coverage.modules == {"c_attn": 2, "c_fc": 2, "c_proj": 4}
    adapted = Lora(rank=2).adapt(model, task)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))
    ids = torch.arange(3, 20)[None]
    wanted = adapted.eval()(input_ids=ids).logits
    merged = Lora(rank=2).merge(tmp_path, adapted)
    # one float32 rounding a weight, through two layers of width 64
    torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_an_encoder_tags_a_word_at_its_own_last_token(minilm: Path) -> None:
    tokenizer = base.tokenizer_of(minilm)
    assert around(tokenizer) == ([101], [102])
    row = {"tokens": ["dim", "chandeliers", "\u200d", "now"], "tags": ["O", "B-name", "O", "O"]}
    data = Data(source="none", task="tag", prompt="Tag {text} please.")
    (example,) = TASKS["tag"].tokenize([row], data, ["B-name", "O"], tokenizer).examples
    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    assert tokens[:3] == ["[CLS]", "tag", "dim"] and tokens[-1] == "[SEP]"
    assert [tokens[p] for p in example.positions] == ["dim", "##iers", "[UNK]", "now"]
    assert tokens.count("[SEP]") == tokens.count("[CLS]") == 1
