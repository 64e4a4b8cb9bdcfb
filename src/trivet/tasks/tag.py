"""Tagging: each word gets a tag. Which words name the room, the device, the brightness?

A causal model has not seen what follows a word, so the prompt may hold {text} twice: the words of
the last copy are tagged (Springer et al. 2024, "Repetition Improves Language Model Embeddings",
section 3). A tag is read at a word's last token.

Not covered: spans that overlap, and tags that are not BIO.
"""

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet import UserError
from trivet.plugins import TASKS
from trivet.records.answer import Answer
from trivet.records.score import Metric
from trivet.tasks import snippets
from trivet.tasks.example import Answers, Example, Row
from trivet.tasks.tally import Tally
from trivet.tasks.task import Shape, Task
from trivet.tasks.tokenizer import around, word_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trivet.data.cells import Cells


class Tags(Answer):
    """Each word with its tag."""

    tags: list[tuple[str, str]]

    def lines(self) -> list[tuple[str, ...]]:
        return [("word", "tag"), *self.tags]


class Tag(Task):
    name = "tag"
    goal = "tag each word of a sentence"
    prompt = "{text}\n{text}"
    first_prompt = "Command: {text}. Tags: {text}"
    head = "AutoModelForTokenClassification"
    peft_type = "TOKEN_CLS"
    metric = "span_f1"
    stock = "trivet.stock.tag"

    def labels(self, rows: Iterable[Row]) -> list[str]:
        return sorted({tag for row in rows for tag in row["tags"]})

    def classes(self, row: Row) -> list[str]:
        return sorted({tag[2:] for tag in row.get("tags", ()) if tag != "O"})

    def suffice(self, rows: Sequence[Row]) -> str | None:
        if all(tag == "O" for row in rows for tag in row["tags"]):
            return "column 'tags': each tag is O, so there is nothing to learn."
        return None

    def example(
        self, row: Row, data: Any, index: dict[str, int], tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[Example, bool]:
        words = [word_ids(tokenizer, word) for word in row["tokens"]]
        before, after = around(tokenizer)
        parts = [
            tokenizer(part.rstrip(" "), add_special_tokens=False)["input_ids"]
            for part in data.prompt.split("{text}")
        ]
        parts = [before + parts[0], *parts[1:-1], parts[-1] + after]
        room = (data.max_length - sum(map(len, parts))) // (len(parts) - 1)
        ends = np.cumsum([len(word) for word in words])
        fit = int((ends <= room).sum())
        if not fit:
            raise UserError(
                f"data.max_length = {data.max_length} holds no word of a row: raise it."
            )
        flat = [i for word in words[:fit] for i in word]
        ids = [i for part in parts[:-1] for i in (*part, *flat)]
        positions = [len(ids) - len(flat) + int(end) - 1 for end in ends[:fit]]
        tags = row.get("tags") or [""] * fit
        targets = [index.get(tag, -1) for tag in tags[:fit]]
        return Example(ids + parts[-1], positions, targets), fit < len(words)

    def metrics(
        self, answers: Answers, targets: list[list[int]], rows: Sequence[Row], labels: list[str]
    ) -> tuple[Tally, Metric]:
        ends = np.cumsum([len(row) for row in targets])[:-1]
        truth = np.concatenate([np.array(row, int) for row in targets])
        parts = (np.split(tags, ends) for tags in (truth, answers.logits.argmax(1)))
        return figures(*([[labels[i] for i in row] for row in rows] for rows in parts))

    def question(self, text: str) -> Row:
        return {"tokens": text.split()}

    def answer(self, logits: np.ndarray, row: Row, labels: list[str]) -> Answer:
        names = [labels[i] for i in logits.argmax(1)]
        return Tags(tags=list(zip(row["tokens"], names, strict=False)))

    def trial(self, run: str, text: str, backend: str) -> str:
        return snippets.predict(run, text, backend)

    def snippet(self, runtime: str, folder: str, prompt: str, text: str) -> str:
        return snippets.python(self, runtime, folder, _encode(prompt, text), _ANSWER)


def figures(truth: list[list[str]], guess: list[list[str]]) -> tuple[Tally, Metric]:
    """Span F1 over whole BIO spans (seqeval), and the share of words with the right tag."""
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of tags that never occur
        spans = [[set(get_entities(row)) for row in rows] for rows in (truth, guess)]
    pairs = list(zip(*spans, strict=True))
    right = np.array([2.0 * len(true & answer) for true, answer in pairs])
    both = np.array([float(len(true) + len(answer)) for true, answer in pairs])
    words = [np.equal(true, answer) for true, answer in zip(truth, guess, strict=True)]
    hits = np.array([float(row.sum()) for row in words])
    share = Tally(hits, np.array([float(len(row)) for row in words]))
    return Tally(right, both), share.metric("token_accuracy")


def _encode(prompt: str, text: str) -> str:
    """Code that tokenises word by word, as `Tag.example` does."""
    first, *rest = prompt.split("{text}")
    lines = [
        f"words = {text!r}.split()",
        'pieces = [tokenizer(" " + w, add_special_tokens=False)["input_ids"] for w in words]',
        "once = [i for piece in pieces for i in piece]",
        'bare, whole = (tokenizer("a", add_special_tokens=s)["input_ids"] for s in (False, True))',
        "at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)",
        f'first = tokenizer({first.rstrip(" ")!r}, add_special_tokens=False)["input_ids"]',
        "ids = whole[:at] + first + once",
    ]
    for between in rest[:-1]:
        literal = repr(between.rstrip(" "))
        lines.append(f'ids += tokenizer({literal}, add_special_tokens=False)["input_ids"] + once')
    lines.append("ends = np.cumsum([len(p) for p in pieces]) + len(ids) - len(once) - 1")
    if tail := rest[-1].rstrip(" "):
        lines.append(f'ids += tokenizer({tail!r}, add_special_tokens=False)["input_ids"]')
    lines.append("ids += whole[at + len(bare) :]")
    return "\n".join(lines)


_ANSWER = "print(list(zip(words, [labels[i] for i in logits[0, ends].argmax(1)])))"


def _row(cells: "Cells") -> Row:
    tokens, tags = cells.words("tokens"), cells.words("tags")
    if len(tokens) != len(tags):
        raise cells.bad("tags", f"{len(tags)} tags for {len(tokens)} tokens")
    for tag in tags:
        if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:]):
            raise cells.bad("tags", f"'{tag}' is not a BIO tag: O, B-name or I-name")
    for token in tokens:
        if len(token.split()) != 1 or token != token.strip():
            raise cells.bad("tokens", f"{token!r} is not one word: split tokens at white space")
    return {"tokens": tokens, "tags": tags, "text": " ".join(tokens)}


Tag.shapes = (Shape(("tokens", "tags"), "tokens and tags", _row, "tokens-tags", ("text",)),)
TASKS.add(Tag())
