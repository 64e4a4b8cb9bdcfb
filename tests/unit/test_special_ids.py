"""Pad and stop tokens agree in model, tokenizer and exports, whatever a base's files say.

The expected logits are of stock transformers, each row alone and without padding.

Run: pytest tests/unit/test_special_ids.py
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from trivet import UserError
from trivet.backends.sessions.torch_model import TorchModel
from trivet.plugins import TASKS
from trivet.records.card import Base, Card
from trivet.tasks.tokenizer import load_tokenizer, stop_ids, turn_end
from trivet.tuning import base

CLASSIFY, GENERATE = TASKS["classify"], TASKS["generate"]
LABELS = ["off", "on"]
ENDOFTEXT, IM_END, WORD = 0, 2, 5000
TEXTS = [
    "turn on the light in the hall",
    "off",
    "on<|im_end|>",
    "the long way round to the attic<|endoftext|><|im_end|>",
]
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def edited(small_base: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(config: dict[str, Any], tokenizer: dict[str, Any]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(small_base, folder)
        for name, change in (("config", config), ("tokenizer_config", tokenizer)):
            file = folder / f"{name}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | change))
        return folder

    return make


def alone(folder: Path, head: torch.Tensor, pad: int) -> np.ndarray:
    """Each text by itself, through nothing but transformers."""
    kind = AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, num_labels=2, pad_token_id=pad).eval()
    model.score.weight.data = head
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in TEXTS]
    return np.array([row.tolist() for row in rows])


@pytest.mark.parametrize(
    ("config", "tokenizer", "pad"),
    [
        ({}, {}, IM_END),
        ({"pad_token_id": None}, {"pad_token": "<|endoftext|>"}, ENDOFTEXT),  # Qwen, Llama 3
        ({"pad_token_id": -1}, {}, IM_END),
        ({"pad_token_id": 49152}, {"pad_token": None}, IM_END),  # no row of the embedding
        ({"pad_token_id": WORD}, {"pad_token": "<|endoftext|>"}, ENDOFTEXT),  # an ordinary word
        ({"pad_token_id": 1}, {"pad_token": "<|endoftext|>"}, 1),  # the config goes first
        ({"pad_token_id": None, "eos_token_id": [7, 2]}, {"pad_token": None}, IM_END),
    ],
)
def test_padded_rows_answer_as_each_alone(
    edited: Callable[..., Path], config: dict, tokenizer: dict, pad: int
) -> None:
    folder = edited(config, tokenizer)
    model, own = base.load(folder, CLASSIFY, LABELS), base.tokenizer_of(folder)
    assert (model.config.pad_token_id, own.pad_token_id) == (pad, pad)
    card = Card(
        task="classify", prompt="{text}", max_length=64, labels=LABELS, model=Base(base="x")
    )
    answers = TorchModel(model, own, card).answer([{"text": text} for text in TEXTS])
    wanted = alone(folder, model.score.weight.data, pad)
    # float32 sums of 576 products in another order: 576 x 2^-24 of the logits' size
    np.testing.assert_allclose(np.concatenate(answers), wanted, atol=576 * 2**-24 * 10)
    own.save_pretrained(folder / "shipped")  # and an export says the same by itself
    assert load_tokenizer(folder / "shipped").pad_token_id == pad


def test_a_tokenizer_larger_than_the_embedding_is_refused(small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "larger"
    shutil.copytree(small_base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>", "</tool>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"ids up to 49,153, and the model's embedding 49,152 rows"):
        base.load(folder, CLASSIFY, LABELS, device="meta")


def test_all_stop_tokens_of_a_base_end_a_reply_and_are_shipped(
    edited: Callable[..., Path], tmp_path: Path
) -> None:
    """The config stops at 2, its generation_config at 7, the chat template ends turns with 3."""
    folder = edited({}, {})
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<repo_name>"))
    GenerationConfig(eos_token_id=[7], repetition_penalty=1.1).save_pretrained(folder)
    model = base.load(folder, GENERATE, [])
    assert model.generation_config.eos_token_id == [2, 3, 7]
    assert model.config.eos_token_id == [2, 3, 7]
    assert model.generation_config.repetition_penalty is None  # an argmax knows nothing of it
    base.save_configs(model, tmp_path)
    assert stop_ids(tmp_path, base.tokenizer_of(folder)) == [2, 3, 7]
    card = Card(task="generate", prompt="{text}", max_length=64, labels=[], model=Base(base="x"))
    session = TorchModel(model, base.tokenizer_of(folder), card)
    first = session.generate([1, 4093], 3)[0]  # what it says first, made a stop token
    session.stops = [first]
    assert session.generate([1, 4093], 3) == []
    assert super(TorchModel, session).generate([1, 4093], 3) == []  # as a graph decodes


def test_the_packaged_base_ends_its_turns_with_its_end_token(small_base: Path) -> None:
    assert turn_end(load_tokenizer(small_base)) == IM_END
