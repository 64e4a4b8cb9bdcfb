"""Bases: two architectures with the same real weights, and folders that are none.

Run: pytest tests/unit/test_base.py
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

from trivet import UserError
from trivet.config.data import Model
from trivet.plugins import TASKS
from trivet.records.card import Base
from trivet.tasks.tokenizer import load_tokenizer
from trivet.tuning import base
from trivet.tuning.methods.lora import Lora

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
    load_tokenizer(small_base).save_pretrained(folder)
    return folder


def test_phi3_gives_llamas_logits(small_base: Path, phi3: Path) -> None:
    ids = torch.arange(40, 60)[None]
    first, second = (
        base.load(f, TASKS["generate"], [])(input_ids=ids).logits for f in (small_base, phi3)
    )
    assert torch.equal(first, second)


def test_named_targets_that_phi3_hides_are_refused() -> None:
    with torch.device("meta"):
        mini = Phi3ForCausalLM(PHI3_MINI)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    with pytest.raises(UserError) as e:
        Lora(targets=targets).coverage(mini, TASKS["generate"])
    words = str(e.value)
    assert "q_proj, k_proj, v_proj match no linear layer of phi3" in words
    assert "o_proj would be trained alone" in words and "fuses them into qkv_proj" in words
    assert "tune.targets = ['o_proj', 'qkv_proj']" in words
    method = Lora(targets=["o_proj", "qkv_proj"], rank=8)
    coverage = method.coverage(mini, TASKS["generate"])
    assert coverage.modules == {"o_proj": 32, "qkv_proj": 32}
    # r (in + out): o_proj 8 (3072 + 3072), qkv_proj 8 (3072 + 9216), in 32 layers
    assert coverage.trainable == 32 * 8 * (6144 + 12288)


def test_unknown_target_lists_what_there_is(small_base: Path) -> None:
    meta = base.load(small_base, TASKS["classify"], ["a", "b"], device="meta")
    with pytest.raises(UserError, match="query match.* down_proj, gate_proj"):
        Lora(targets=["query"]).coverage(meta, TASKS["classify"])


def test_all_linear_covers_every_layer_and_not_the_head(small_base: Path) -> None:
    meta = base.load(small_base, TASKS["classify"], ["a", "b"], device="meta")
    coverage = Lora().coverage(meta, TASKS["classify"])
    assert set(coverage.modules.values()) == {2} and len(coverage.modules) == 7


def test_memory_is_the_base_once_and_sixteen_bytes_for_what_is_trained(small_base: Path) -> None:
    """Counted by hand from SmolLM2-135M's config: hidden 576, kv 192, intermediate 1536."""
    meta = base.load(small_base, TASKS["classify"], ["a", "b"], device="meta")
    method = Lora(rank=4)
    coverage = method.coverage(meta, TASKS["classify"])
    attention = (576 + 576) + 2 * (576 + 192) + (576 + 576)
    lora = 2 * 4 * (attention + 3 * (576 + 1536))
    head = 2 * 576
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    frozen = 49152 * 576 + 2 * layer + 576
    assert coverage.trainable == lora + head
    for half, each in ((False, 4), (True, 2)):
        memory = method.memory(coverage, half)
        # the head is frozen and trained at once in PEFT: a copy of each
        assert abs(memory - each * frozen - 16 * (lora + head)) <= each * head


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no .*safetensors"):
        base.base_folder(Base(base=str(tmp_path)))
    with pytest.raises(UserError, match="has no .*safetensors"):
        base.resolve(Model(base=str(tmp_path)))


def test_pickled_weights_are_not_read(tmp_path: Path, small_base: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((small_base / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no pickled weights"):
        base.base_folder(Base(base=str(tmp_path)))


def test_a_folder_is_resolved_to_its_bytes(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    first = base.resolve(Model(base=str(tmp_path)))
    assert base.resolve(Model(base=str(tmp_path))) == first
    (tmp_path / "model.safetensors").write_text("other weights")
    second = base.resolve(Model(base=str(tmp_path)))
    assert second.revision != first.revision and base.base_folder(second) == tmp_path
