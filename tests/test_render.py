"""Rows into tokens: where answers are read, what is cut, and that replies stop.

Run: .venv/bin/pytest tests/test_render.py
"""

from pathlib import Path

import pytest
from trivet.flows.recipe import Data
from trivet.flows.steps import model
from trivet.flows.steps.render import render

from trivet import UserError

CLASSIFY = Data(source="x", prompt="Command: {text}. Intent:")


@pytest.fixture(scope="module")
def tokenizer(base: Path):
    return model.load_tokenizer(base)


def test_classify_answers_at_the_last_token(tokenizer) -> None:
    rows = [{"text": "turn on {text}", "label": "b"}, {"text": "stop"}]
    first, second = render(rows, CLASSIFY, ["a", "b"], tokenizer).examples
    assert tokenizer.decode(first.ids) == "Command: turn on {text}. Intent:"
    assert first.positions == [len(first.ids) - 1] and first.targets == [1]
    assert second.targets == [-1]


def test_a_long_text_is_cut_and_the_prompt_is_not(tokenizer) -> None:
    short = CLASSIFY.model_copy(update={"max_length": 20})
    found = render([{"text": "light " * 50, "label": "a"}], short, ["a"], tokenizer)
    text = tokenizer.decode(found.examples[0].ids)
    assert found.truncated == 1 and 15 <= len(found.examples[0].ids) <= 20
    assert text.startswith("Command: light light") and text.endswith(". Intent:")


def test_tags_are_read_at_the_last_token_of_each_word_of_the_second_copy(tokenizer) -> None:
    row = {"tokens": ["dim", "the", "chandeliers"], "tags": ["O", "O", "B-name"]}
    (example,) = render([row], Data(source="x", task="tag"), ["B-name", "O"], tokenizer).examples
    assert (
        tokenizer.decode(example.ids) == "Command: dim the chandeliers. Tags: dim the chandeliers"
    )
    assert tokenizer.decode(example.ids[example.positions[0]]) == " dim"
    assert example.positions[-1] == len(example.ids) - 1 and example.targets == [1, 1, 0]


def test_a_reply_is_answered_up_to_its_stop_token(tokenizer) -> None:
    row = {
        "messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    }
    (example,) = render([row], Data(source="x", task="generate"), [], tokenizer).examples
    assert tokenizer.decode(example.targets) == "Hello.<|im_end|>"
    assert [example.ids[p + 1] for p in example.positions] == example.targets


def test_a_long_conversation_loses_its_oldest_tokens(tokenizer) -> None:
    data = Data(source="x", task="generate", max_length=24)
    row = {
        "messages": [
            {"role": "user", "content": "light " * 50},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    found = render([row], data, [], tokenizer)
    assert found.truncated == 1 and len(found.examples[0].ids) == 24
    assert tokenizer.decode(found.examples[0].targets) == "Yes.<|im_end|>"


def test_a_prompt_that_ends_in_the_pad_token_is_refused(tokenizer) -> None:
    ends = CLASSIFY.model_copy(update={"prompt": "{text}<|im_end|>"})
    with pytest.raises(UserError, match=r"data.prompt ends in the pad token"):
        render([{"text": "x", "label": "a"}], ends, ["a"], tokenizer)
