"""The base's contract: what comes through, what is refused, and mistakes that are planted.

Bases are small random models with the architectures' own classes (tests/architectures.py); what a
stage must answer is the stage before it, and each row alone.

Run: pytest tests/unit/test_contract.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, config_of
from models import outcome, small_base
from safetensors.torch import load_file, save_file
from small_run import ROWS
from transformers import AutoConfig, AutoTokenizer

from trivet import UserError
from trivet.backends.sessions.onnx_model import OnnxModel
from trivet.backends.sessions.torch_model import TorchModel
from trivet.config.data import Model
from trivet.contract import promises
from trivet.contract.reach import Reach
from trivet.contract.shrink import small_config
from trivet.plugins import TASKS
from trivet.records.card import Base, Card
from trivet.tuning import base, loop
from trivet.tuning.methods.lora import Lora

torch.set_num_threads(1)
HEAD = "base_model.model.score.weight"


def test_an_encoder_tags_in_every_stage() -> None:
    assert outcome(ARCHITECTURES["bert"], "tag") == ("", "")


def test_an_encoder_is_refused_for_replies() -> None:
    stage, why = outcome(ARCHITECTURES["bert"], "generate")
    assert stage == "adapter" and "it sees what follows a token" in why
    assert "give a decoder such as the packaged one, or another task" in why


def test_a_graph_that_is_padded_with_another_token_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head of a decoder then reads the padding. As in the issue, but in one stage alone."""
    right = OnnxModel.logits

    def wrong(self: OnnxModel, examples: list) -> np.ndarray:
        self.tokenizer.pad_token = "<s>"
        return right(self, examples)

    monkeypatch.setattr(OnnxModel, "logits", wrong)
    stage, why = outcome(ARCHITECTURES["llama"], "classify")
    assert stage == "onnx-fp32" and "otherwise by itself than in a padded batch" in why


def test_a_head_that_is_not_saved_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place lies the one that tuning began with: stock PEFT opens it without a word."""
    right = loop.fit

    def forgets(model, train, valid, tune, half, folder: Path, *more, **named):
        first = model.base_model.model.score.original_module.weight.detach().clone()
        curve = right(model, train, valid, tune, half, folder, *more, **named)
        file = folder / "best" / "adapter_model.safetensors"
        weights = load_file(file)
        assert not torch.equal(weights[HEAD], first)
        save_file(weights | {HEAD: first}, file)
        return curve

    monkeypatch.setattr(loop, "fit", forgets)
    stage, why = outcome(ARCHITECTURES["llama"], "classify")
    assert stage == "adapter" and "not all that was trained is saved" in why


@pytest.mark.parametrize(
    ("base_name", "most", "max_length"), [("bert", 128, 129), ("roberta", 126, 127)]
)
def test_rows_longer_than_the_base_has_positions_for_are_refused(
    base_name: str, most: int, max_length: int, tmp_path: Path
) -> None:
    """128 rows in the table of positions, of which RoBERTa's first two are no places."""
    small_base(ARCHITECTURES[base_name], TASKS["classify"].head, tmp_path)
    card = Card(task="classify", prompt="", max_length=most, labels=[], model=Base(base=""))
    if base_name == "roberta":  # it counts from its pad token, which here is 0: one is no place
        most, card = 127, card.model_copy(update={"max_length": 127})
    promises.positions(tmp_path, card, remote=False)
    longer = card.model_copy(update={"max_length": most + 1})
    with pytest.raises(UserError, match=f"positions for .* data.max_length = {most + 1}: set"):
        promises.positions(tmp_path, longer, remote=False)


def test_the_share_that_an_adapter_reaches_counts_a_mixtures_experts() -> None:
    """By hand, from the config: hidden 64, intermediate 128, 4 experts, 2 layers."""
    task = TASKS["generate"]
    model = ARCHITECTURES["mixtral"].model(task.head)
    reach = Reach.of(Lora(rank=2).adapt(model, task))
    attention, router, experts = 2 * (2 * 64 * 64 + 2 * 64 * 32), 2 * 64 * 4, 2 * 4 * 3 * 64 * 128
    assert (reach.adapted, reach.experts) == (attention + router + experts, 0)
    only = Lora(rank=2, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    reach = Reach.of(only.adapt(ARCHITECTURES["olmoe"].model(task.head), task))
    assert reach.experts == 2 * 4 * 3 * 64 * 128
    assert "experts', which the adapter does not reach" in reach.notes()[0]
    plain = ARCHITECTURES["llama"].model(task.head)
    assert Reach.of(Lora(rank=2).adapt(plain, task)).notes() == []


def test_the_packaged_base_keeps_its_vocabulary_and_becomes_small() -> None:
    folder = base.base_folder(base.resolve(Model()))
    small = small_config(AutoConfig.from_pretrained(folder))
    assert (small.vocab_size, small.num_hidden_layers, small.hidden_size) == (49152, 2, 64)
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (4, 2, 16)
    assert len(AutoTokenizer.from_pretrained(folder)) == small.vocab_size


@pytest.mark.parametrize("name", ["gemma3_text", "lfm2", "qwen3_next"])
def test_a_hybrid_keeps_a_layer_of_each_kind(name: str) -> None:
    config = config_of(name)
    whole = type(config)()
    small = small_config(whole)
    assert {*small.layer_types} == {*whole.layer_types}
    assert len(small.layer_types) == small.num_hidden_layers <= 4


def test_another_reply_and_another_stop_token_than_before_are_caught(tmp_path: Path) -> None:
    task = TASKS["generate"]
    folder = small_base(ARCHITECTURES["llama"], task.head, tmp_path / "base")
    model, tokenizer = base.load(folder, task, []), base.tokenizer_of(folder)
    card = Card(task=task.name, prompt="{text}", max_length=96, labels=[], model=Base(base=""))
    session, rows = TorchModel(model, tokenizer, card), ROWS["generate"]
    reply = promises.decoded(session, rows, [], "")
    assert len(reply) == 4 and promises.decoded(session, rows, reply, "") == reply
    with pytest.raises(UserError, match="decodes otherwise than in the stage before"):
        promises.decoded(session, rows, [*reply[:-1], reply[-1] ^ 1], "")
    with pytest.raises(UserError, match="A cache or a stop token is lost"):
        promises.decoded(session, rows, reply[:-1], "")
    base.save_configs(model, tmp_path)
    promises.shipped(tmp_path, session)
    session.stops.append(7)
    with pytest.raises(UserError, match="generation_config.json of an export says eos_token_id"):
        promises.shipped(tmp_path, session)
