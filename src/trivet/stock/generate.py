"""The task: the assistant's last reply, each of its tokens read at the token before it."""

from typing import Any

import numpy as np

from trivet.stock.onnx_runtime import Model

HEAD = "AutoModelForCausalLM"
VALUE = "loss"  # the mean of each answer's `score`: nats a token


def ask(model: Model, row: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    """Which token the model would say at each place of the row's own reply; of a row that has
    `reply_tokens`, its own reply too, at most so long.
    """
    messages = _prompted(row["messages"], card["prompt"])
    start = len(model.encode(model.render(messages[:-1], ask=True), special=False))
    ids = model.encode(model.render(messages, ask=False), special=False)
    ends = [n + 1 for n in range(start, len(ids)) if ids[n] in model.stops]
    ids = ids[: ends[0]] if ends else ids
    over = min(max(0, len(ids) - card["max_length"]), start - 1)  # the oldest tokens go
    ids, start = ids[over : over + card["max_length"]], start - over
    logits = model.logits(ids)[start - 1 : len(ids) - 1]
    top = logits.max(1, keepdims=True).astype(np.float64)
    total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    scores = total - logits[np.arange(len(logits)), ids[start:]]
    answers = [str(i) for i in logits.argmax(1)]
    ours = {"answers": answers, "logits": logits, "scores": [float(s) for s in scores]}
    return ours | (_reply(model, messages, row["reply_tokens"]) if "reply_tokens" in row else {})


def _reply(model: Model, messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
    """The greedy reply, and the smallest margin by which one of its tokens was chosen."""
    ids = model.encode(model.render(messages[:-1], ask=True), special=False)
    start, margin = len(ids), np.inf
    while len(ids) < start + tokens:
        logits = model.logits(ids)[-1]
        second, first = np.sort(logits)[-2:]
        margin = min(margin, float(first - second))
        token = int(logits.argmax())
        if token in model.stops:
            break
        ids.append(token)
    return {"reply": model.decode(ids[start:]), "margin": margin}


def _prompted(messages: list[dict[str, str]], prompt: str) -> list[dict[str, str]]:
    """The recipe's prompt goes around what the user said last."""
    for n in reversed(range(len(messages) - 1)):
        if messages[n]["role"] == "user":
            turn = {"role": "user", "content": prompt.replace("{text}", messages[n]["content"])}
            return [*messages[:n], turn, *messages[n + 1 :]]
    return messages
