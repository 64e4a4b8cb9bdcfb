"""Bases and adapters: two architectures with the same real weights, and which targets match.

Run: .venv/bin/pytest tests/test_model.py
"""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
)
from trivet.flows.recipe import Model, Tune
from trivet.flows.steps import model

from trivet import UserError

# microsoft/Phi-3-mini-4k-instruct, config.json
PHI3_MINI = Phi3Config(
    vocab_size=32064,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    sliding_window=2047,
)

COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
)


@pytest.fixture(scope="module")
def phi3(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same real weights under Phi-3's fused names."""
    llama = AutoModelForCausalLM.from_pretrained(small_base)
    old = llama.config
    config = Phi3Config(
        **{k: getattr(old, k) for k in COPIED},
        pad_token_id=old.eos_token_id,
        tie_word_embeddings=True,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 1.0},
    )
    weights = llama.state_dict()
    for layer in range(old.num_hidden_layers):
        at = f"model.layers.{layer}."
        for fused, parts in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
            where = at + fused.rsplit(".", 1)[0]
            pieces = [weights.pop(f"{where}.{p}_proj.weight") for p in parts]
            weights[f"{at}{fused}.weight"] = torch.cat(pieces)
    fused_model = Phi3ForCausalLM(config)
    fused_model.load_state_dict(weights)
    folder = tmp_path_factory.mktemp("phi3") / "phi3"
    fused_model.save_pretrained(folder)
    model.load_tokenizer(small_base).save_pretrained(folder)
    return folder


def test_phi3_gives_llamas_logits(small_base: Path, phi3: Path) -> None:
    ids = torch.arange(40, 60)[None]
    first, second = (
        model.load(f, "generate", [])(input_ids=ids).logits for f in (small_base, phi3)
    )
    assert torch.equal(first, second)


def test_named_targets_that_phi3_hides_are_refused() -> None:
    with torch.device("meta"):
        mini = Phi3ForCausalLM(PHI3_MINI)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    with pytest.raises(UserError) as e:
        model.coverage(mini, Tune(targets=targets), "generate")
    said = str(e.value)
    assert "q_proj, k_proj, v_proj match no linear layer of phi3" in said
    assert "o_proj would be trained alone" in said and "fuses them into qkv_proj" in said
    assert "tune.targets = ['o_proj', 'qkv_proj']" in said
    found = model.coverage(mini, Tune(targets=["o_proj", "qkv_proj"], rank=8), "generate")
    assert found.modules == {"o_proj": 32, "qkv_proj": 32}
    # r (in + out): o_proj 8 (3072 + 3072), qkv_proj 8 (3072 + 9216), in 32 layers
    assert found.trainable == 32 * 8 * (6144 + 12288)


def test_unknown_target_lists_what_there_is(small_base: Path) -> None:
    meta = model.load(small_base, "classify", ["a", "b"], device="meta")
    with pytest.raises(UserError, match="query match.* down_proj, gate_proj"):
        model.coverage(meta, Tune(targets=["query"]), "classify")


def test_all_linear_covers_every_layer_and_not_the_head(small_base: Path) -> None:
    meta = model.load(small_base, "classify", ["a", "b"], device="meta")
    found = model.coverage(meta, Tune(), "classify")
    assert set(found.modules.values()) == {2} and len(found.modules) == 7


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no .*safetensors"):
        model.base_folder(Model(base=str(tmp_path)))


def test_pickled_weights_are_not_read(tmp_path: Path, small_base: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((small_base / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no pickled weights"):
        model.base_folder(Model(base=str(tmp_path)))


def test_label_words() -> None:
    names = ("HassTurnOn", "B-light_color", "HassGetTemperature", "O", "spam", "!")
    assert [model.words(n) for n in names] == [
        "turn on",
        "light color",
        "get temperature",
        "o",
        "spam",
        "!",
    ]


def test_the_head_starts_from_the_labels_words(small_base: Path) -> None:
    tokenizer = model.load_tokenizer(small_base)
    started = model.load(small_base, "classify", ["HassTurnOn", "HassSetTemperature"])
    assert isinstance(
        started, AutoModelForSequenceClassification._model_mapping[type(started.config)]
    )
    model.start_head(started, tokenizer, ["HassTurnOn", "HassSetTemperature"])
    ids = tokenizer(" turn on", add_special_tokens=False)["input_ids"]
    mean = started.get_input_embeddings().weight[ids].mean(0)
    cosine = torch.nn.functional.cosine_similarity(started.score.weight, mean[None])
    assert cosine[0] > 0.9999 and cosine[1] < 0.9
