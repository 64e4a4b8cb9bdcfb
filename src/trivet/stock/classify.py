"""The task: one label a row, read at the last token of the prompt."""

from typing import Any

from trivet.stock.onnx_runtime import Model

HEAD = "AutoModelForSequenceClassification"
VALUE = "accuracy"  # the mean of each answer's `score`


def ask(model: Model, row: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    ids = _prompt(model, row["text"], card)
    logits = model.logits(ids)[-1:]
    answers = [model.labels[i] for i in logits.argmax(1)]
    return {"answers": answers, "logits": logits, "scores": [float(answers[0] == row["label"])]}


def _prompt(model: Model, text: str, card: dict[str, Any]) -> list[int]:
    """The row's tokens. Too many: the end of the text goes, the words of the prompt stay."""
    ids = model.encode(card["prompt"].replace("{text}", text))
    if len(ids) > card["max_length"]:
        offsets = model.offsets(text)
        keep = card["max_length"] - (len(ids) - len(offsets)) - 1
        ids = model.encode(card["prompt"].replace("{text}", text[: offsets[keep - 1][1]]))
    return ids
