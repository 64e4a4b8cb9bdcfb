"""Generation: the assistant's replies in a conversation, token by token.

An answer is read before each token of a reply, its stop token included. Training rows teach all of
a conversation's replies, or the last (`data.learn`); a held-out row is scored on its last one, so
that what is learnt does not change what is measured. How turns become tokens is in `turns.py`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet.plugins import TASKS
from trivet.records.answer import Answer
from trivet.records.score import Metric
from trivet.tasks import snippets, turns
from trivet.tasks.conversations import SHAPES
from trivet.tasks.example import Answers, Example, Row, Tokenized
from trivet.tasks.tally import DRAWS, Tally
from trivet.tasks.task import Task, digits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trivet.config.data import Data

FIRST, BEST = 4, 5  # of a golden reply: places whose logits it has, and how many of each


class Reply(Answer):
    reply: str

    def lines(self) -> list[tuple[str, ...]]:
        return [(self.reply,)]


class Generate(Task):
    name = "generate"
    inputs = ("messages",)
    goal = "reply in a conversation"
    head = "AutoModelForCausalLM"
    peft_type = "CAUSAL_LM"
    new_head = False
    talks = True
    metric = "loss"
    lower_is_better = True
    stock = "trivet.stock.generate"

    def group(self, row: Row) -> str:
        first = (turn["content"] for turn in row["messages"] if turn["role"] == "user")
        return next(first, "").casefold()

    def teaches(self, row: Row) -> bool:
        return turns.answer(row["messages"]) is not None

    def example(
        self, row: Row, data: Any, index: dict[str, int], tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[Example, bool]:
        """The last reply; with target -1 where there is none to learn or to be measured by."""
        last = turns.lesson(row["messages"], data.prompt, data.max_length, tokenizer, last=True)
        if last.examples:
            return last.examples[0], last.truncated
        asked = turns.prompted([*turns.before(row["messages"]), {}], data.prompt)[:-1]
        ids = turns.prompt_ids(asked, tokenizer)[-data.max_length :]
        return Example(ids, [len(ids) - 1], [-1]), False

    def training(
        self,
        rows: Iterable[Row],
        data: "Data",
        labels: Sequence[str],
        tokenizer: "PreTrainedTokenizerBase",
    ) -> Tokenized:
        last = data.learn == "last"
        lessons = [
            turns.lesson(row["messages"], data.prompt, data.max_length, tokenizer, last)
            for row in rows
        ]
        said = sum((lesson.said for lesson in lessons), Counter[str]())
        examples = [example for lesson in lessons for example in lesson.examples]
        return Tokenized(examples, sum(lesson.truncated for lesson in lessons), said)

    def asked(self, row: Row) -> list[dict[str, str]]:
        return turns.before(row["messages"])

    def trained(self, example: Example) -> set[int]:
        pairs = zip(example.positions, example.targets, strict=True)
        return {position + 1 for position, target in pairs if target >= 0}

    def metrics(
        self, answers: Answers, targets: list[list[int]], rows: Sequence[Row], labels: list[str]
    ) -> tuple[Tally, Metric]:
        """Mean cross-entropy in nats a token, and chrF of greedy replies to the first rows."""
        truth = np.concatenate([np.array(row, int) for row in targets])
        nats = _nats(answers.logits, truth) * (truth >= 0)
        ends = np.cumsum([len(row) for row in targets])[:-1]
        sums, counts = ([part.sum() for part in np.split(x, ends)] for x in (nats, truth >= 0))
        return Tally(np.array(sums), np.array(counts, float)), chrf(answers.replies, rows)

    def golden(self, logits: np.ndarray, targets: list[int], labels: list[str]) -> dict[str, Any]:
        """The most probable token at each place, the nats of the right one, and of the first places
        the `classes` with the largest logits: a vocabulary's are too many for a file.
        """
        truth = np.array(targets, int)
        classes = np.argsort(-logits[:FIRST], axis=1)[:, :BEST]
        return {
            "answers": [str(i) for i in logits.argmax(1)],
            "scores": _nats(logits, truth).tolist() if (truth >= 0).all() else [],
            "classes": classes.tolist(),
            "logits": digits(np.take_along_axis(logits[:FIRST], classes, 1)),
        }

    def question(self, text: str) -> Row:
        return {"messages": [{"role": "user", "content": text}]}

    def text(self, row: Row) -> str:
        asked = (m["content"] for m in reversed(row["messages"]) if m["role"] == "user")
        return next(asked, "")

    def reply(self, text: str) -> Answer:
        return Reply(reply=text)

    def trial(self, run: str, text: str, backend: str) -> str:
        return f"trivet chat {run}"

    def snippet(self, runtime: str, folder: str, prompt: str, text: str) -> str:
        messages = turns.prompted([{"role": "user", "content": text}, {}], prompt)[:-1]
        encode = (
            f"messages = {messages!r}\n"
            "prompt = tokenizer.apply_chat_template("
            "messages, tokenize=False, add_generation_prompt=True)\n"
            'ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]'
        )
        answer = _DECODE if runtime.endswith(".onnx") else _GENERATE
        return snippets.python(self, runtime, folder, encode, answer)


_GENERATE = """\
model.generation_config = GenerationConfig.from_pretrained(folder)
reply = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=64, do_sample=False)
print(tokenizer.decode(reply[0, len(ids):], skip_special_tokens=True))"""
_DECODE = """\
start, stops = len(ids), GenerationConfig.from_pretrained(folder).eos_token_id
while len(ids) < start + 64:
    token = int(logits_of(ids)[0, -1].argmax())
    if token in np.atleast_1d(stops):
        break
    ids.append(token)
print(tokenizer.decode(ids[start:], skip_special_tokens=True))"""


def chrf(replies: list[str], rows: Sequence[Row]) -> Metric:
    """Of replies to the first rows, 0-1 (sacreBLEU, and its own bootstrap over replies)."""
    from sacrebleu.metrics import CHRF

    pairs = [
        (reply, answer)
        for reply, row in zip(replies, rows, strict=False)
        if (answer := turns.answer(row["messages"])) is not None
    ]
    if not pairs:
        return Metric(name="chrf", value=0.0)
    replies, right = [reply for reply, _ in pairs], [answer for _, answer in pairs]
    measure = CHRF()
    if len(replies) < 2:
        return Metric(name="chrf", value=measure.corpus_score(replies, [right]).score / 100)
    score = measure.corpus_score(replies, [right], n_bootstrap=DRAWS)
    signature = str(measure.get_signature())
    fields = json.loads(score.format(width=8, signature=signature, is_json=True))
    mean, half = fields.get("confidence_mean", 0.0), fields.get("confidence_var", 0.0)
    low, high = (mean - half) / 100, (mean + half) / 100
    return Metric(name="chrf", value=score.score / 100, low=low, high=high)


def _nats(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Cross-entropy of each answer, nats; in chunks, for a vocabulary's float64 is large."""
    out = np.empty(len(truth))
    for at in range(0, len(truth), 256):
        part = logits[at : at + 256].astype(np.float64)
        part -= part.max(1, keepdims=True)
        picked = part[np.arange(len(part)), truth[at : at + 256]]
        out[at : at + 256] = np.log(np.exp(part).sum(1)) - picked
    return out


Generate.shapes = SHAPES
TASKS.add(Generate())
