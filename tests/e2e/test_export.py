"""Exports answer like the adapter they come from, and carry tokenizer, template and stop tokens.

Run: pytest tests/e2e/test_export.py
"""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from bare_run import bare_run
from transformers import AutoTokenizer, GenerationConfig

from trivet.backends.backend import Talking
from trivet.evaluate.predict import open_session
from trivet.evaluate.score import ask
from trivet.plugins import BACKENDS, TASKS
from trivet.tasks.example import Row

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
CASES: dict[str, tuple[list[Row], dict[str, str]]] = {
    "classify": (COMMANDS, {"prompt": "{text} ="}),
    "tag": (TAGGED, {"prompt": "Command: {text}. Tags: {text}"}),
    "generate": (CHAT, {}),
}


@pytest.fixture(scope="module", params=list(CASES))
def exported(
    request: pytest.FixtureRequest, small_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A briefly tuned adapter of two real layers, merged and exported."""
    rows, data = CASES[request.param]
    tree = {
        "data": data | {"task": request.param, "source": "x"},
        "model": {"base": str(small_base)},
        "tune": {"rank": 4, "epochs": 3, "batch": 2, "precision": "fp32", "label_names": False},
    }
    splits = {"train": rows, "valid": rows[:2], "test": rows}
    run = bare_run(tmp_path_factory.mktemp(request.param), tree, splits)
    for artifact in run.artifacts():
        run.build(artifact)
    run.publish()
    return request.param, run.folder


def test_every_stage_answers_alike(exported) -> None:
    task, folder = exported
    rows = CASES[task][0]
    logits = {
        backend.name: ask(open_session(folder, backend)[0], rows, TASKS[task], batch=2).logits
        for backend in BACKENDS.values()
        if backend.inside(folder)
    }
    assert set(logits) == {"adapter", "merged", "onnx-fp32", "onnx-int8"}
    scale = np.abs(logits["adapter"]).max()
    # float32 has 24 bits; two layers of sums over at most 1,536 products each reorder the last few
    for name in ("merged", "onnx-fp32"):
        assert np.abs(logits[name] - logits["adapter"]).max() < 2**-24 * 1536 * scale
    assert not np.array_equal(logits["onnx-int8"], logits["onnx-fp32"])
    assert np.abs(logits["onnx-int8"] - logits["onnx-fp32"]).max() < 0.05 * scale


def test_answers_do_not_depend_on_the_batch(exported) -> None:
    task, folder = exported
    session, _ = open_session(folder, BACKENDS["onnx-fp32"])
    rows = CASES[task][0]
    alone = [ask(session, rows, TASKS[task], batch=n).logits for n in (1, len(rows))]
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
        cast(Talking, open_session(folder, BACKENDS[name])[0]).reply(asked, 8)
        for name in ("merged", "onnx-fp32")
    ]
    assert replies[0] == replies[1]
