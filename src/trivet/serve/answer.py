"""One answer from a finished run, as its user will get it: `trivet predict` and `trivet chat`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ... import UserError
from . import numbers
from .backends import BACKENDS, Backend, Card, open_backend
from .fpga import StudentBackend


def opened(run: Path, backend: str) -> tuple[Backend, Card]:
    """A run's backend and its card. Raises UserError when the run does not have it."""
    have = [name for name, (folder, _) in BACKENDS.items() if (run / folder).is_dir()]
    if (run / "onnx").is_dir() and not (run / "onnx" / "model.int8.onnx").exists():
        have.remove("onnx-int8")
    if backend not in have:
        raise UserError(f"--backend '{backend}' is not one that {run.name} has: {', '.join(have)}.")
    folder = run / BACKENDS[backend][0]
    return open_backend(backend, folder), Card.read(folder)


def predict(run: Path, text: str, backend: str) -> dict[str, Any]:
    """classify: the label and its three best; tag: a tag for each word; generate: the reply."""
    if not text.strip():
        raise UserError("TEXT is empty: give a sentence to answer.")
    model, card = opened(run, backend)
    found: dict[str, Any] = {"run": run.name, "backend": backend, "text": text}
    if card.data.task == "generate":
        return found | {"reply": model.reply([{"role": "user", "content": text}])}  # type: ignore[attr-defined]
    if card.data.task == "tag":
        words = text.split()
        (logits,) = model.answer([{"tokens": words}])
        return found | {
            "tags": [[w, card.labels[i]] for w, i in zip(words, logits.argmax(1), strict=False)]
        }
    (logits,) = model.answer([_row(model, text)])
    odds = np.exp(logits[0].astype(np.float64) - logits[0].max())
    odds /= odds.sum()
    best = [
        {"label": card.labels[i], "probability": float(odds[i])} for i in odds.argsort()[::-1][:3]
    ]
    return found | {"label": best[0]["label"], "best": best}


def _row(model: Backend, text: str) -> dict[str, Any]:
    """The text, or for a student of numbers the list of them that it spells."""
    if not isinstance(model, StudentBackend) or model.inputs.kind == "counts":
        return {"text": text}
    try:
        return {"x": numbers.checked(json.loads(text), lambda column, why: UserError(why))}
    except (ValueError, UserError) as e:
        raise UserError(
            f"TEXT = '{text:.40}': this run answers numbers ({e}); give them as a list, [0, 1.5]."
        ) from None


def chatting(run: Path, backend: str) -> Callable[[list[dict[str, str]]], str]:
    """A function from a conversation to the next reply. UserError unless the run generates."""
    model, card = opened(run, backend)
    if card.data.task != "generate":
        raise UserError(
            f"{run.name} is a '{card.data.task}' run and does not talk: use `trivet predict`, or "
            "`trivet run chat.toml` for one that does."
        )
    return model.reply  # type: ignore[attr-defined]
