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
    before, turn = _last(row["messages"])
    before = _prompted(before, card["prompt"])
    ids = asked = model.encode(text := model.render(before, ask=True), special=False)
    if turn:
        whole = model.render([*before, turn], ask=False)
        if not whole.startswith(text):
            raise ValueError("the chat template does not put a reply behind its prompt")
        reply = model.encode(whole[len(text) :], special=False)
        ends = [n + 1 for n, token in enumerate(reply) if token in model.stops]
        ids = asked + (reply[: ends[0]] if ends else reply)
    start = len(asked)
    over = min(max(0, len(ids) - card["max_length"]), start - 1)  # the oldest tokens go
    ids, start = ids[over:][: card["max_length"]], start - over
    logits = model.logits(ids)[start - 1 : max(start, len(ids) - 1)]
    top = logits.max(1, keepdims=True).astype(np.float64)
    total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    scores = [total[n] - logits[n, token] for n, token in enumerate(ids[start:])]
    answers = [str(i) for i in logits.argmax(1)]
    ours = {"answers": answers, "logits": logits, "scores": [float(s) for s in scores]}
    return ours | (_reply(model, asked, row["reply_tokens"]) if "reply_tokens" in row else {})


def _reply(model: Model, asked: list[int], tokens: int) -> dict[str, Any]:
    """The greedy reply, and the smallest margin by which one of its tokens was chosen."""
    ids, start, margin = [*asked], len(asked), np.inf
    while len(ids) < start + tokens:
        logits = model.logits(ids)[-1]
        second, first = np.sort(logits)[-2:]
        margin = min(margin, float(first - second))
        token = int(logits.argmax())
        if token in model.stops:
            break
        ids.append(token)
    return {"reply": model.decode(ids[start:]), "margin": margin}


def _last(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The assistant's last turn that answers somebody and counts, and the turns before it."""
    for n in reversed(range(1, len(messages))):
        others = [turn for turn in messages[:n] if turn["role"] not in ("system", "assistant")]
        if messages[n]["role"] == "assistant" and messages[n].get("weight") != 0 and others:
            return messages[:n], messages[n]
    return messages[:-1], None


def _prompted(messages: list[dict[str, Any]], prompt: str) -> list[dict[str, Any]]:
    """The recipe's prompt goes around what the user said last."""
    for n in reversed(range(len(messages))):
        if messages[n]["role"] == "user":
            turn = messages[n] | {"content": prompt.replace("{text}", messages[n]["content"])}
            return [*messages[:n], turn, *messages[n + 1 :]]
    return messages
