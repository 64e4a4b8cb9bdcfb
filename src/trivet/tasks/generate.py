"""Generation: the assistant's last reply to a conversation, token by token.

An answer is read before each token of the reply, its stop token included. The prompt goes around
the user's last turn. Not covered: loss on earlier turns, tool calls.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trivet import UserError
from trivet.plugins import TASKS
from trivet.records.answer import Answer
from trivet.records.score import Metric
from trivet.tasks import snippets
from trivet.tasks.conversations import SHAPES
from trivet.tasks.example import Answers, Example, Row
from trivet.tasks.tally import DRAWS, Tally
from trivet.tasks.task import Task, digits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]
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

    def example(
        self, row: Row, data: Any, index: dict[str, int], tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[Example, bool]:
        messages = prompted(row["messages"], data.prompt)
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

    def trained(self, example: Example) -> set[int]:
        return {position + 1 for position in example.positions}

    def metrics(
        self, answers: Answers, targets: list[list[int]], rows: Sequence[Row], labels: list[str]
    ) -> tuple[Tally, Metric]:
        """Mean cross-entropy in nats a token, and chrF of greedy replies to the first rows."""
        lengths = [len(row) for row in targets]
        nats = _nats(answers.logits, np.concatenate([np.array(row, int) for row in targets]))
        by_row = np.split(nats, np.cumsum(lengths)[:-1])
        tally = Tally(np.array([row.sum() for row in by_row]), np.array(lengths, float))
        return tally, chrf(answers.replies, rows)

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
        messages = prompted([{"role": "user", "content": text}, {}], prompt)[:-1]
        encode = (
            f"messages = {messages!r}\n"
            "prompt = tokenizer.apply_chat_template("
            "messages, tokenize=False, add_generation_prompt=True)\n"
            'ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]'
        )
        answer = _DECODE if runtime.endswith(".onnx") else _GENERATE
        return snippets.python(self, runtime, folder, encode, answer)


_GENERATE = """\
reply = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=64, do_sample=False)
print(tokenizer.decode(reply[0, len(ids):], skip_special_tokens=True))"""
_DECODE = """\
start = len(ids)
while len(ids) < start + 64:
    token = int(logits_of(ids)[0, -1].argmax())
    if token == tokenizer.eos_token_id:
        break
    ids.append(token)
print(tokenizer.decode(ids[start:], skip_special_tokens=True))"""


def prompted(messages: list[Turn], prompt: str) -> list[Turn]:
    """The messages, whose last one answers, with the prompt around the user's last turn."""
    last = max((n for n, m in enumerate(messages[:-1]) if m["role"] == "user"), default=None)
    if last is None or prompt == "{text}":
        return messages
    text = prompt.replace("{text}", messages[last]["content"])
    return [*messages[:last], {"role": "user", "content": text}, *messages[last + 1 :]]


def prompt_ids(messages: list[Turn], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens after which the model is to reply."""
    if tokenizer.chat_template is None:
        raise UserError(
            "model.base has no chat template: give an instruct model for data.task = 'generate'."
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


def chrf(replies: list[str], rows: Sequence[Row]) -> Metric:
    """Of replies to the first rows, 0-1 (sacreBLEU, and its own bootstrap over replies)."""
    from sacrebleu.metrics import CHRF

    right = [row["messages"][-1]["content"] for row in rows[: len(replies)]]
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
