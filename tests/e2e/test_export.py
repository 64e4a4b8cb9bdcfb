"""Exports answer like the adapter they come from, and carry tokenizer, template and stop tokens.

Run: .venv/bin/pytest tests/test_export.py
"""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, GenerationConfig
from trivet.flows.recipe import Data, Model, Tune
from trivet.flows.steps import backends, export, model, score, train
from trivet.flows.steps.render import render

CHAT = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in [
        ("What is your name?", "I am Trivet."),
        ("Are you a robot?", "I am a stool with three legs."),
        ("Bye", "See you."),
    ]
]
COMMANDS = [
    {"text": f"turn {way} the {room} light", "label": way}
    for way in ("on", "off")
    for room in ("hall", "attic", "kitchen")
]
TAGGED = [
    {"tokens": ["light", room, way], "tags": ["O", "B-room", "B-way"]}
    for way in ("on", "off")
    for room in ("hall", "attic")
]
TASKS = {
    "classify": (COMMANDS, Data(source="x", prompt="{text} ="), ["off", "on"]),
    "tag": (TAGGED, Data(source="x", task="tag"), ["B-room", "B-way", "O"]),
    "generate": (CHAT, Data(source="x", task="generate"), []),
}


@pytest.fixture(scope="module", params=list(TASKS))
def exported(
    request: pytest.FixtureRequest, small_base: Path, tmp_path_factory: pytest.TempPathFactory
):
    """A briefly tuned adapter of two real layers, merged and exported."""
    rows, data, labels = TASKS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = model.load_tokenizer(small_base)
    tune = Tune(rank=4, epochs=3, batch=2, precision="fp32")
    whole = model.adapt(model.load(small_base, data.task, labels), tune, data.task)
    examples = render(rows, data, labels, tokenizer).examples
    train.fit(whole, examples, examples[:2], tune, folder)
    adapter = (folder / "best").rename(folder / "adapter")
    tokenizer.save_pretrained(adapter)
    backends.Card(data, Model(base=str(small_base)), labels).write(adapter)
    for name in ("merged", "onnx"):
        (folder / name).mkdir()
    export.merge(adapter, folder / "merged")
    export.onnx_fp32(folder / "merged", folder / "onnx")
    export.onnx_int8(folder / "onnx")
    return request.param, folder


def test_every_hop_answers_alike(exported) -> None:
    task, folder = exported
    rows = TASKS[task][0]
    logits = {
        name: score.ask(backends.open_backend(name, folder / part), rows, task, batch=2).logits
        for name, (part, _) in backends.BACKENDS.items()
        if part in ("adapter", "merged", "onnx")
    }
    scale = np.abs(logits["adapter"]).max()
    # float32 has 24 bits; two layers of sums over at most 1,536 products each reorder the last few
    for name in ("merged", "onnx-fp32"):
        assert np.abs(logits[name] - logits["adapter"]).max() < 2**-24 * 1536 * scale
    assert not np.array_equal(logits["onnx-int8"], logits["onnx-fp32"])
    assert np.abs(logits["onnx-int8"] - logits["onnx-fp32"]).max() < 0.05 * scale


def test_answers_do_not_depend_on_the_batch(exported) -> None:
    task, folder = exported
    opened = backends.open_backend("onnx-fp32", folder / "onnx")
    rows = TASKS[task][0]
    alone = [score.ask(opened, rows, task, batch=n).logits for n in (1, len(rows))]
    assert np.abs(alone[0] - alone[1]).max() < 1e-3


def test_the_tokenizer_its_template_and_stop_tokens_lie_beside(exported, base: Path) -> None:
    _, folder = exported
    first = AutoTokenizer.from_pretrained(base)
    for name in ("adapter", "merged", "onnx"):
        beside = AutoTokenizer.from_pretrained(folder / name)
        assert beside.chat_template == first.chat_template and beside.eos_token == "<|im_end|>"
        assert beside("turn it on")["input_ids"] == first("turn it on")["input_ids"]


def test_replies_stop_and_are_the_same_from_onnx(exported) -> None:
    task, folder = exported
    if task != "generate":
        return
    assert GenerationConfig.from_pretrained(folder / "merged").eos_token_id == 2
    asked = CHAT[0]["messages"][:1]
    replies = [
        backends.open_backend(n, folder / p).reply(asked, 8)
        for n, p in (("merged", "merged"), ("onnx-fp32", "onnx"))
    ]
    assert replies[0] == replies[1]
