"""Rows into tokens: the prompt or chat template, and which positions answer.

Every task kind becomes the same thing, a row of token ids with the positions whose logits are an
answer and the right answer at each. The loss, the scorer and every backend work on that alone.

- classify: one position, the last; the answer is the label.
- tag: one for each word. A causal model has not seen what follows a word, so the sentence is given
  twice and the words of the second copy are tagged (Springer et al. 2024, "Repetition Improves
  Language Model Embeddings", section 3). A tag is read at a word's last token.
- generate: one before each token of the assistant's last reply, its stop token included.

Not covered: rows packed into one, which is how a batch is laid out (train.py), not a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ... import UserError
from ..recipe import Data


@dataclass(frozen=True)
class Example:
    """`ids`: tokens. `positions`: where an answer is read. `targets`: the answers, -1 = unknown."""

    ids: list[int]
    positions: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Rendered:
    examples: list[Example]
    truncated: int


def render(
    rows: Iterable[dict[str, Any]],
    data: Data,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> Rendered:
    """Rows as examples of at most `data.max_length` tokens; rows without a label get target -1."""
    index = {label: i for i, label in enumerate(labels)}
    kind = {"classify": _classify, "tag": _tag, "generate": _generate}[data.task]
    pairs = [kind(row, data, index, tokenizer) for row in rows]
    return Rendered([example for example, _ in pairs], sum(cut for _, cut in pairs))


def _classify(
    row: dict[str, Any], data: Data, index: dict[str, int], tokenizer: PreTrainedTokenizerBase
) -> tuple[Example, bool]:
    text = row["text"]
    ids = tokenizer(data.prompt.replace("{text}", text))["input_ids"]
    cut = len(ids) > data.max_length
    if cut:  # the text is cut, never the words of the prompt around it
        offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)[
            "offset_mapping"
        ]
        keep = data.max_length - (len(ids) - len(offsets)) - 1
        if keep < 1:
            raise UserError(
                f"data.max_length = {data.max_length} leaves no room for a row beside data.prompt: "
                "raise it."
            )
        ids = tokenizer(data.prompt.replace("{text}", text[: offsets[keep - 1][1]]))["input_ids"]
    if ids[-1] == tokenizer.pad_token_id:
        # The stock classification head reads the last token that is not the pad token.
        raise UserError(
            f"data.prompt ends in the pad token ({tokenizer.pad_token}): end it in ordinary text."
        )
    return Example(ids, [len(ids) - 1], [index.get(row.get("label", ""), -1)]), cut


def _tag(
    row: dict[str, Any], data: Data, index: dict[str, int], tokenizer: PreTrainedTokenizerBase
) -> tuple[Example, bool]:
    words = [tokenizer(" " + w, add_special_tokens=False)["input_ids"] for w in row["tokens"]]
    lead = tokenizer("Command:")["input_ids"]
    again = tokenizer(". Tags:", add_special_tokens=False)["input_ids"]
    room = (data.max_length - len(lead) - len(again)) // 2
    kept, used = 0, 0
    while kept < len(words) and used + len(words[kept]) <= room:
        used += len(words[kept])
        kept += 1
    if not kept:
        raise UserError(f"data.max_length = {data.max_length} holds no word of a row: raise it.")
    flat = [i for w in words[:kept] for i in w]
    ids = lead + flat + again + flat
    position, positions = len(lead) + len(flat) + len(again) - 1, []
    for word in words[:kept]:
        position += len(word)
        positions.append(position)
    tags = row.get("tags") or [""] * kept
    return Example(ids, positions, [index.get(t, -1) for t in tags[:kept]]), kept < len(words)


def _generate(
    row: dict[str, Any], data: Data, index: dict[str, int], tokenizer: PreTrainedTokenizerBase
) -> tuple[Example, bool]:
    messages = row["messages"]
    start = len(prompt_ids(messages[:-1], tokenizer))
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids[:start] != prompt_ids(messages[:-1], tokenizer):
        raise UserError(
            "model.base: its chat template does not put a reply behind its prompt unchanged."
        )
    end = len(ids)
    if tokenizer.eos_token_id in ids[start:]:  # what follows the stop token is never generated
        end = start + ids[start:].index(tokenizer.eos_token_id) + 1
    cut = end > data.max_length
    if cut:  # the oldest tokens go: a reply depends most on what is near
        drop = min(end - data.max_length, start - 1)
        ids, start, end = ids[drop:], start - drop, min(end - drop, data.max_length)
    return Example(ids[:end], list(range(start - 1, end - 1)), ids[start:end]), cut


def prompt_ids(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens after which the model is to reply."""
    if tokenizer.chat_template is None:
        raise UserError(
            "model.base has no chat template: give an instruct model for data.task = 'generate'."
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
