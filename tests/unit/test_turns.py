"""Which tokens of a conversation are learnt, and that exactly these are generated.

The expected prompt is that of stock transformers; the expected reply is the row's text, as each
template is published to write it. A session whose model has learnt its rows to the last token
must give the rows' own replies back.

Run: pytest tests/unit/test_turns.py
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_templates import TEMPLATES, tokenizer_for
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from trivet import UserError
from trivet.backends.sessions.language_model import LanguageModel
from trivet.config.data import Data
from trivet.kernels.peft.attention import NAME as PACKED
from trivet.kernels.peft.patch import patch
from trivet.plugins import TASKS
from trivet.records.card import Base, Card
from trivet.tasks import turns
from trivet.tasks.example import Answers, Example
from trivet.tasks.tokenizer import load_tokenizer, markup, stop_ids, turn_end
from trivet.tuning import base as base_models
from trivet.tuning import loop
from trivet.tuning.methods.lora import Lora

GENERATE = TASKS["generate"]
LONG = 100_000
Messages = list[dict[str, Any]]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **weight: int) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **weight}


FOUR = [turn for n in "abcd" for turn in (user(f"ask {n}"), assistant(f"say {n}"))]


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(base)


class Perfect(LanguageModel):
    """Says behind each beginning of its examples the token that was to be learnt there."""

    def __init__(self, tokenizer: Any, examples: Sequence[Example], prompt: str = "{text}") -> None:
        card = Card(task="generate", prompt=prompt, max_length=LONG, labels=[], model=Base(base=""))
        super().__init__(tokenizer, card, stop_ids(Path("/nowhere"), tokenizer))
        self.known = {
            tuple(e.ids[: p + 1]): target
            for e in examples
            for p, target in zip(e.positions, e.targets, strict=True)
        }

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """KeyError where a session reads what no example had."""
        logits = np.zeros((len(examples), len(self.tokenizer)), np.float32)
        for row, example in zip(logits, examples, strict=True):
            row[self.known[tuple(example.ids)]] = 1
        return logits


def taught(messages: Messages, tokenizer: Any, **data: Any) -> turns.Lesson:
    chosen = Data(source="x", task="generate", max_length=LONG, **data)
    last = chosen.learn == "last"
    return turns.lesson(messages, chosen.prompt, chosen.max_length, tokenizer, last)


def spans(example: Example) -> Iterator[list[int]]:
    """The learnt tokens, one list a reply: what lies without a gap."""
    gaps = np.flatnonzero(np.diff(example.positions) > 1) + 1
    for part in np.split(np.array(example.targets), gaps):
        yield part.tolist()


def said(lesson: turns.Lesson) -> set[str]:
    return {words for words, count in lesson.said.items() if count}


def test_all_four_replies_of_a_conversation_are_learnt(tokenizer) -> None:
    lesson = taught(FOUR, tokenizer)
    (example,) = lesson.examples
    texts = [tokenizer.decode(span) for span in spans(example)]
    assert texts == [f"say {n}<|im_end|>" for n in "abcd"] and not said(lesson)
    assert [example.ids[p + 1] for p in example.positions] == example.targets
    assert tokenizer.decode(example.ids).count("ask") == 4


def test_the_last_alone_is_learnt_where_the_recipe_says_so(tokenizer) -> None:
    (example,) = taught(FOUR, tokenizer, learn="last").examples
    assert [tokenizer.decode(span) for span in spans(example)] == ["say d<|im_end|>"]
    assert example.ids == taught(FOUR, tokenizer).examples[0].ids


def test_a_weight_of_0_is_not_learnt_and_still_read(tokenizer) -> None:
    messages = [user("q"), assistant("bad", weight=0), user("r"), assistant("good", weight=1)]
    (example,) = taught(messages, tokenizer).examples
    assert [tokenizer.decode(span) for span in spans(example)] == ["good<|im_end|>"]
    assert "bad" in tokenizer.decode(example.ids)
    nothing = taught(messages[:2], tokenizer)
    assert not nothing.examples and said(nothing) == {turns.NOTHING}


def test_a_held_out_row_without_a_reply_to_learn_is_not_scored(tokenizer) -> None:
    """The loss is that of the other row alone: of logits all 0, ln(vocabulary) a token."""
    data = Data(source="x", task="generate")
    rows = [
        {"messages": [user("q"), assistant("bad", weight=0)]},
        {"messages": [user("q"), assistant("good")]},
    ]
    first, second = GENERATE.tokenize(rows, data, [], tokenizer).examples
    assert first.targets == [-1] and tokenizer.decode(second.targets) == "good<|im_end|>"
    logits = np.zeros((1 + len(second.targets), 100), np.float32)
    targets = [first.targets, [7] * len(second.targets)]
    loss, replies = GENERATE.metrics(Answers(logits, 2, 1.0, ["bad", "good"]), targets, rows, [])
    assert loss.value == pytest.approx(np.log(100)) and loss.denominator.tolist() == [0, 2]
    assert replies.value == 1  # of the second row alone
    assert not GENERATE.teaches(rows[0]) and GENERATE.teaches(rows[1])


def test_a_reply_that_begins_with_spaces_is_learnt_with_them(tokenizer) -> None:
    """Four spaces and the line's end before them are one token where they are read together."""
    messages = [user("write code"), assistant("    return 1")]
    (example,) = taught(messages, tokenizer).examples
    asked = turns.prompt_ids(messages[:1], tokenizer)
    assert example.ids[: len(asked)] == asked
    assert tokenizer.decode(example.targets) == "    return 1<|im_end|>"
    assert Perfect(tokenizer, [example]).reply(messages[:1]) == "    return 1"


def test_a_system_turn_and_a_prompt_go_together(tokenizer) -> None:
    messages = [{"role": "system", "content": "You are a pirate."}, *FOUR[:4]]
    lesson = taught(messages, tokenizer, prompt="In French: {text}")
    first, second = (tokenizer.decode(e.ids) for e in lesson.examples)
    pirate = "<|im_start|>system\nYou are a pirate.<|im_end|>\n<|im_start|>user\n"
    assert first.startswith(f"{pirate}In French: ask a<|im_end|>")
    assert second.startswith(f"{pirate}ask a<|im_end|>") and "user\nIn French: ask b" in second
    assert said(lesson) == {turns.SPLIT}
    session = Perfect(tokenizer, lesson.examples, "In French: {text}")
    assert [session.reply(messages[:n]) for n in (2, 4)] == ["say a", "say b"]


def test_what_a_template_rewrites_is_an_example_of_its_own_and_said(base: Path) -> None:
    tokenizer = tokenizer_for("qwen3", base, False)
    thought = "<think>\nHm.\n</think>\n\nYes."
    messages = [user("a"), assistant(thought), user("b"), assistant("No.")]
    lesson = taught(messages, tokenizer)
    first, second = (tokenizer.decode(e.ids) for e in lesson.examples)
    assert first.endswith(f"assistant\n{thought}<|im_end|>") and "Hm." not in second
    assert turns.SPLIT in said(lesson)


def test_a_conversation_longer_than_max_length_loses_no_reply(tokenizer) -> None:
    lesson = turns.lesson(FOUR, "{text}", 40, tokenizer)
    texts = [tokenizer.decode(span) for e in lesson.examples for span in spans(e)]
    assert texts == [f"say {n}<|im_end|>" for n in "abcd"]
    assert max(len(e.ids) for e in lesson.examples) <= 40
    assert lesson.truncated and said(lesson) == {turns.SPLIT}


def test_a_reply_that_spells_a_stop_token_is_left_out_and_said(tokenizer) -> None:
    messages = [user("How does a turn end?"), assistant("With <|im_end|>, always.")]
    lesson = taught([*messages, *FOUR[:2]], tokenizer)
    (example,) = lesson.examples
    assert [tokenizer.decode(span) for span in spans(example)] == ["say a<|im_end|>"]
    assert said(lesson) == {turns.SPELLED}
    assert markup("a <|im_end|> b <|im_end|><|im_start|>", tokenizer) == [
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert markup("a <im_end> b", tokenizer) == []


def test_a_greeting_answers_nobody_and_is_said(tokenizer) -> None:
    lesson = taught([assistant("How can I help?"), *FOUR[:2]], tokenizer)
    assert [tokenizer.decode(s) for e in lesson.examples for s in spans(e)] == ["say a<|im_end|>"]
    assert said(lesson) == {turns.UNASKED}


def test_what_a_template_refuses_is_said_in_its_words(base: Path) -> None:
    tokenizer = tokenizer_for("gemma", base, False)
    with pytest.raises(UserError, match=r"turns system, user: System role not supported"):
        taught([{"role": "system", "content": "s"}, *FOUR[:2]], tokenizer)


def test_a_prompt_that_no_reply_is_put_behind_is_refused(base: Path) -> None:
    """DeepSeek-R1's template asks with an open thought, and writes replies without one."""
    tokenizer = tokenizer_for("qwen3", base, False)
    asks = "{{- '<|im_start|>assistant\\n' }}"
    tokenizer.chat_template = str(tokenizer.chat_template).replace(
        asks, "{{- '<|im_start|>assistant\\n<think>\\nSo' }}"
    )
    with pytest.raises(UserError, match="does not put a reply behind its prompt unchanged"):
        taught(FOUR[:2], tokenizer)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_that_of_each_reply_alone_padded_and_packed(
    packed: bool, tokenizer, small_base: Path
) -> None:
    """Stock transformers' logits, each conversation alone; the mean over all learnt tokens."""
    short = [user("q"), assistant("bad", weight=0), user("r"), assistant("good")]
    examples = [e for m in (FOUR, short) for e in taught(m, tokenizer).examples]
    stock = AutoModelForCausalLM.from_pretrained(small_base).eval()
    nats = []
    with torch.inference_mode():
        for example in examples:
            logits = stock(torch.tensor([example.ids])).logits[0]
            own = example.positions
            nats.append(-logits.log_softmax(-1)[own, [example.ids[p + 1] for p in own]])
        wanted = torch.cat(nats).mean().item()
        adapted = Lora().adapt(base_models.load(small_base, GENERATE, []), GENERATE).eval()
        if packed:
            patch(adapted)
        assert (adapted.config._attn_implementation == PACKED) == packed
        # nats near 10 of float32 sums over 576 features, in another order: 576 x 2^-24 of them
        assert loop.loss_of(adapted, examples).item() == pytest.approx(wanted, rel=576 * 2**-24)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_turn_end_stops_a_reply(name: str, base: Path) -> None:
    tokenizer = tokenizer_for(name, base, False)
    end = turn_end(tokenizer)
    word = tokenizer.eos_token if end is None else tokenizer.decode([end])
    assert word == TEMPLATES[name].stop and (end is None) == (name == "no end")
    assert tokenizer.convert_tokens_to_ids(word) in stop_ids(Path("/nowhere"), tokenizer)


# A seeded search: conversations over every template and both kinds of tokenizers.

PIECES = [
    "yes",
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "return 1",
    "é",
    "🎈",
    ".",
    "\t",
    "[INST] ",
    "None",
]
MARKUP = ["<|im_start|>assistant\n", "<|im_end|>", "<|eot_id|>", "</s>", "<think>"]
PLAIN_TEXT = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
MARKED = st.lists(st.sampled_from(PIECES + MARKUP), min_size=1, max_size=5).map("".join)
TEXT = (PLAIN_TEXT | MARKED).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn, alternates: bool) -> Messages:
    weights = st.sampled_from([{}, {"weight": 0}, {"weight": 1}])
    out: Messages = []
    if not alternates and draw(st.booleans()):
        out.append({"role": "system", "content": draw(TEXT)})
    if not alternates and draw(st.booleans()):
        out.append(assistant(draw(TEXT)))
    for _ in range(draw(st.integers(1, 4))):
        out += [user(draw(TEXT)) for _ in range(1 if alternates else draw(st.integers(1, 2)))]
        replies = 1 if alternates else draw(st.integers(1, 2))
        out += [assistant(draw(TEXT), **draw(weights)) for _ in range(replies)]
    return out


@lru_cache
def cached_tokenizer(name: str, base: Path, sentencepiece: bool) -> PreTrainedTokenizerBase:
    return tokenizer_for(name, base, sentencepiece)


# A SentencePiece tokenizer puts a space behind a token that lies within a reply, such as Qwen's
# thought's end: no text with one comes back as it was, whoever reads it.
@pytest.mark.parametrize(
    ("name", "sentencepiece"),
    [
        (name, kind)
        for name in TEMPLATES
        for kind in (False, True)
        if (name, kind) != ("qwen3", True)
    ],
)
def test_what_is_learnt_is_the_rows_replies_behind_the_prompts_of_inference(
    name: str, sentencepiece: bool, base: Path
) -> None:
    tokenizer = cached_tokenizer(name, base, sentencepiece)
    template = TEMPLATES[name]

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(conversations(template.alternates))
    def search(messages: Messages) -> None:
        added = tokenizer.added_tokens_decoder.values()
        control = {template.stop} | {token.content for token in added if token.special}
        wanted = [
            n
            for n, turn in enumerate(messages)
            if turn["role"] == "assistant"
            and turn.get("weight") != 0
            and any(m["role"] == "user" for m in messages[:n])
            and not any(word in turn["content"] for word in control)
        ]
        lesson = taught(messages, tokenizer)
        learnt = [(e, span) for e in lesson.examples for span in spans(e)]
        assert len(learnt) == len(wanted)
        session = Perfect(tokenizer, lesson.examples)
        for n, (example, span) in zip(wanted, learnt, strict=True):
            content = messages[n]["content"]
            asked = tokenizer.apply_chat_template(
                messages[:n], add_generation_prompt=True, return_dict=False
            )
            behind = len(asked)
            assert example.ids[:behind] == asked
            assert example.ids[behind : behind + len(span)] == span
            assert example.positions.count(behind - 1) == 1
            whole, before = tokenizer.decode(asked + span), tokenizer.decode(asked)
            assert whole == before + template.write(content) + template.stop
            assert session.reply(messages[:n], LONG) == template.read(content)

    search()
