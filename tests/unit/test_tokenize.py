"""Rows into tokens: where answers are read, what is cut, and that replies stop.

Run: pytest tests/unit/test_tokenize.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from trivet import UserError
from trivet.config.data import Data
from trivet.plugins import TASKS
from trivet.tasks.example import Tokenized
from trivet.tasks.tokenizer import load_tokenizer

CLASSIFY = Data(source="x", prompt="Command: {text}. Intent:")
TAG = Data(source="x", task="tag", prompt="Command: {text}. Tags: {text}")
CHAT = Data(source="x", task="generate")
HELLO = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(base)


def tokenize(
    rows: Sequence[dict[str, Any]], data: Data, labels: list[str], tokenizer: Any
) -> Tokenized:
    return TASKS[data.task].tokenize(rows, data, labels, tokenizer)


def test_classify_answers_at_the_last_token(tokenizer) -> None:
    rows = [{"text": "turn on {text}", "label": "b"}, {"text": "stop"}]
    first, second = tokenize(rows, CLASSIFY, ["a", "b"], tokenizer).examples
    assert tokenizer.decode(first.ids) == "Command: turn on {text}. Intent:"
    assert first.positions == [len(first.ids) - 1] and first.targets == [1]
    assert second.targets == [-1]


def test_a_long_text_is_cut_and_the_prompt_is_not(tokenizer) -> None:
    short = CLASSIFY.model_copy(update={"max_length": 20})
    cut = tokenize([{"text": "light " * 50, "label": "a"}], short, ["a"], tokenizer)
    text = tokenizer.decode(cut.examples[0].ids)
    assert cut.truncated == 1 and 15 <= len(cut.examples[0].ids) <= 20
    assert text.startswith("Command: light light") and text.endswith(". Intent:")


def test_tags_are_read_at_the_last_token_of_each_word_of_the_second_copy(tokenizer) -> None:
    row = {"tokens": ["dim", "the", "chandeliers"], "tags": ["O", "O", "B-name"]}
    (example,) = tokenize([row], TAG, ["B-name", "O"], tokenizer).examples
    assert (
        tokenizer.decode(example.ids) == "Command: dim the chandeliers. Tags: dim the chandeliers"
    )
    assert tokenizer.decode(example.ids[example.positions[0]]) == " dim"
    assert example.positions[-1] == len(example.ids) - 1 and example.targets == [1, 1, 0]


def test_a_reply_is_answered_up_to_its_stop_token(tokenizer) -> None:
    row = {"messages": HELLO}
    (example,) = tokenize([row], CHAT, [], tokenizer).examples
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
    cut = tokenize([row], data, [], tokenizer)
    assert cut.truncated == 1 and len(cut.examples[0].ids) == 24
    assert tokenizer.decode(cut.examples[0].targets) == "Yes.<|im_end|>"


def test_a_prompt_that_ends_in_the_pad_token_is_read_before_it(tokenizer) -> None:
    """There the stock head reads it."""
    ends = CLASSIFY.model_copy(update={"prompt": "{text}<|im_end|>"})
    (example,) = tokenize([{"text": "x", "label": "a"}], ends, ["a"], tokenizer).examples
    assert tokenizer.pad_token_id == example.ids[-1] and example.positions == [0]


# Token ids, positions and targets as they were when the prompt of tags was fixed in the code and
# the tasks were branches of one function: computed by that code, of commit c428adb.
GUENTHER = [10664, 767, 452, 7170, 399, 349, 506, 17559, 17]
MANY = [410, 26871, 3653] * 5  # of 30 words, five fit twice into 40 tokens
TAGGED = {
    "three words": (
        {"tokens": ["dim", "the", "chandeliers"], "tags": ["O", "O", "B-name"]},
        256,
        [17777, 42, 3633, 260, 410, 26871, 3653, 30, 47669, 42, 3633, 260, 410, 26871, 3653],
        [10, 11, 14],
        [2, 2, 0],
    ),
    "no ASCII": (
        {"tokens": ["Turn", "off", "Günther's", "lamp!"], "tags": ["O", "O", "B-name", "I-name"]},
        256,
        [17777, 42, *GUENTHER, 30, 47669, 42, *GUENTHER],
        [14, 15, 20, 22],
        [2, 2, 0, 1],
    ),
    "no tags": ({"tokens": ["lights"]}, 256, [17777, 42, 7751, 30, 47669, 42, 7751], [6], [-1]),
    "cut": (
        {"tokens": ["chandeliers"] * 30, "tags": ["O"] * 30},
        40,
        [17777, 42, *MANY, 30, 47669, 42, *MANY],
        [22, 25, 28, 31, 34],
        [2] * 5,
    ),
}


@pytest.mark.parametrize("name", TAGGED)
def test_a_prompt_of_two_copies_gives_the_tokens_of_the_fixed_one(name: str, tokenizer) -> None:
    row, most, ids, positions, targets = TAGGED[name]
    data = TAG.model_copy(update={"max_length": most})
    tokens = tokenize([row], data, ["B-name", "I-name", "O"], tokenizer)
    (example,) = tokens.examples
    assert (example.ids, example.positions, example.targets) == (ids, positions, targets)
    assert tokens.truncated == (name == "cut")


def test_classify_and_generate_give_the_tokens_that_they_gave(tokenizer) -> None:
    row: dict[str, Any] = {"text": "turn on the light", "label": "b"}
    (example,) = tokenize([row], CLASSIFY, ["a", "b"], tokenizer).examples
    assert example.ids == [17777, 42, 1607, 335, 260, 1420, 30, 2507, 293, 42]
    assert (example.positions, example.targets) == ([9], [1])
    row = {"messages": HELLO}
    (example,) = tokenize([row], CHAT, [], tokenizer).examples
    assert example.ids == [*SYSTEM, 26843, 47, *REPLY]
    assert (example.positions, example.targets) == ([31, 32, 33], [19556, 30, 2])


# What the chat template of SmolLM2 puts before the user's words, and after them "Hello.".
SYSTEM = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018]
SYSTEM += [411, 407, 19712, 8182, 2, 198, 1, 4093, 198]
REPLY = [2, 198, 1, 520, 9531, 198, 19556, 30, 2]


def test_a_prompt_goes_around_the_users_last_turn_alone(tokenizer) -> None:
    """The tokens of the old code, for the same conversation with the prompt written out."""
    data = CHAT.model_copy(update={"prompt": "Say it in French: {text}"})
    row = {"messages": HELLO}
    (example,) = tokenize([row], data, [], tokenizer).examples
    assert example.ids == [*SYSTEM, 36218, 357, 281, 3432, 42, 21041, 47, *REPLY]
    assert (example.positions, example.targets) == ([36, 37, 38], [19556, 30, 2])
    assert row["messages"][0]["content"] == "Hi?"
    longer = {"messages": [*row["messages"], *row["messages"]]}
    text = tokenizer.decode(tokenize([longer], data, [], tokenizer).examples[0].ids)
    assert text.count("Say it in French: Hi?") == 1 and text.count("user\nHi?") == 1
    assert text.index("user\nHi?") < text.index("Say it in French")


def test_a_prompt_with_text_once_is_tagged_there(tokenizer) -> None:
    row = {"tokens": ["dim", "the", "chandeliers"], "tags": ["O", "O", "B-name"]}
    data = TAG.model_copy(update={"prompt": "Tag {text} now."})
    (example,) = tokenize([row], data, ["B-name", "O"], tokenizer).examples
    assert tokenizer.decode(example.ids) == "Tag dim the chandeliers now."
    words = [tokenizer.decode(example.ids[: p + 1]) for p in example.positions]
    assert words == ["Tag dim", "Tag dim the", "Tag dim the chandeliers"]
    assert example.targets == [1, 1, 0]


def test_max_length_that_holds_no_word_is_refused(tokenizer) -> None:
    row = {"tokens": ["chandeliers"], "tags": ["O"]}
    with pytest.raises(UserError, match="data.max_length = 10 holds no word of a row"):
        tokenize([row], TAG.model_copy(update={"max_length": 10}), ["O"], tokenizer)
