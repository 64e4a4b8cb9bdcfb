"""The task: one tag a word, read at the word's last token in the prompt's last copy of the text."""

from typing import Any

from trivet.stock.onnx_runtime import Model

HEAD = "AutoModelForTokenClassification"
VALUE = "token_accuracy"  # the mean of each answer's `score`


def ask(model: Model, row: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    ids, places = _prompt(model, row["tokens"], card)
    logits = model.logits(ids)[places]
    answers = [model.labels[i] for i in logits.argmax(1)]
    scores = [float(a == tag) for a, tag in zip(answers, row["tags"], strict=False)]
    return {"answers": answers, "logits": logits, "scores": scores}


def _prompt(model: Model, words: list[str], card: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The row's tokens, word by word, and where each word ends. Too many: the last words go."""
    first, *others = card["prompt"].split("{text}")
    around = [model.encode(first.rstrip(" "))]
    around += [model.encode(part.rstrip(" "), special=False) for part in others]
    room = (card["max_length"] - sum(map(len, around))) // len(others)
    pieces: list[list[int]] = []
    for word in words:
        piece = model.encode(f" {word}", special=False)
        if sum(map(len, pieces)) + len(piece) > room:
            break
        pieces.append(piece)
    ids: list[int] = []
    places: list[int] = []
    for part in around[:-1]:
        ids, places = ids + part, []
        for piece in pieces:
            ids = ids + piece
            places.append(len(ids) - 1)
    return ids + around[-1], places
