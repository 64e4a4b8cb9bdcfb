"""The one scorer: every backend answers the same held-out rows, and the same lines judge it.

- classify: accuracy, macro-F1.
- tag: span F1 (seqeval, BIO), token accuracy.
- generate: held-out loss in nats a token, chrF of greedy replies to the first rows.

A baseline, TF-IDF with logistic regression, is fitted on the same labelled rows: a language model
that does not beat it is not worth shipping, and the table says so.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics import CHRF
from seqeval.metrics import f1_score as span_f1
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from transformers import PreTrainedTokenizerBase

from ..recipe import Data
from .backends import Backend
from .render import render

METRICS = {"classify": "accuracy", "tag": "span_f1", "generate": "loss"}
REPLIES, REPLY_TOKENS = 20, 24  # greedy replies that chrF is taken over, and their longest


@dataclass(frozen=True)
class Answers:
    """`logits` float32 [answers, classes] over all rows in order; `seconds` for all of them."""

    logits: np.ndarray
    rows: int
    seconds: float
    replies: list[str]


def ask(
    backend: Backend,
    rows: Sequence[dict[str, Any]],
    task: str,
    batch: int = 16,
    progress: Callable[[float], None] = lambda share: None,
) -> Answers:
    """Every row's logits, in the order of `rows`; asked in batches of rows of like length."""
    order = sorted(range(len(rows)), key=lambda i: len(str(rows[i])))
    out: list[np.ndarray] = [np.empty(0)] * len(rows)
    backend.answer([rows[i] for i in order[-batch:]])  # the first call allocates; it is not timed
    start = time.perf_counter()
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        for i, logits in zip(chosen, backend.answer([rows[i] for i in chosen]), strict=True):
            out[i] = logits
        progress(min(1.0, (at + batch) / len(rows)))
    seconds = time.perf_counter() - start
    replies = []
    if task == "generate":
        replies = [backend.reply(r["messages"][:-1], REPLY_TOKENS) for r in rows[:REPLIES]]  # type: ignore[attr-defined]
    return Answers(np.concatenate(out).astype(np.float32), len(rows), seconds, replies)


def targets_of(
    rows: Sequence[dict[str, Any]],
    data: Data,
    labels: list[str],
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[list[int]]:
    """The right answers of each row, in the order in which backends answer.

    Labels need no tokenizer.
    """
    if tokenizer is None:
        return [[labels.index(row["label"])] for row in rows]
    return [e.targets for e in render(rows, data, labels, tokenizer).examples]


def score(
    answers: Answers,
    targets: list[list[int]],
    rows: Sequence[dict[str, Any]],
    task: str,
    labels: list[str],
) -> dict[str, Any]:
    """`{"metric", "value", "second": {"name", "value"}}`; 0-1, but the loss has no bound."""
    truth = np.array([t for row in targets for t in row])
    guess = answers.logits.argmax(1)
    if task == "classify":
        value = accuracy_score(truth, guess)
        second = ("macro_f1", f1_score(truth, guess, average="macro", zero_division=0.0))
    elif task == "tag":
        ends = np.cumsum([len(t) for t in targets])[:-1]
        spans = [[[labels[i] for i in part] for part in np.split(x, ends)] for x in (truth, guess)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # seqeval warns of tags that never occur
            value = span_f1(*spans)
        second = ("token_accuracy", accuracy_score(truth, guess))
    else:
        value = _loss(answers.logits, truth)
        right = [r["messages"][-1]["content"] for r in rows[: len(answers.replies)]]
        second = ("chrf", CHRF().corpus_score(answers.replies, [right]).score / 100)
    return {
        "metric": METRICS[task],
        "value": float(value),
        "second": dict(name=second[0], value=float(second[1])),
    }


def _loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean cross-entropy, nats; in chunks, for a vocabulary's logits in float64 are large."""
    total = 0.0
    for at in range(0, len(truth), 256):
        part = logits[at : at + 256].astype(np.float64)
        part -= part.max(1, keepdims=True)
        picked = part[np.arange(len(part)), truth[at : at + 256]]
        total += float((np.log(np.exp(part).sum(1)) - picked).sum())
    return total / len(truth)


def baseline(rows: dict[str, list[dict[str, Any]]], seed: int = 0) -> dict[str, Any]:
    """TF-IDF of words and characters into logistic regression, on the labelled rows of `rows`.

    It is fitted on train alone, like the tuned model; scored on the same test rows.
    """
    texts = {split: [r["text"] for r in rows[split]] for split in ("train", "test")}
    tfidf = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    return _fitted("tf-idf + logistic regression", tfidf, 10.0, rows, texts, seed)


def plain_baseline(
    rows: dict[str, list[dict[str, Any]]], x: dict[str, np.ndarray], seed: int = 0
) -> dict[str, Any]:
    """Logistic regression on what the student is fed, x[split] [n, …]; token ids as one-hot."""
    ids = x["train"].dtype.kind == "i"
    scaler = OneHotEncoder(handle_unknown="ignore") if ids else StandardScaler()
    flat = {split: part.reshape(len(part), -1) for split, part in x.items()}
    return _fitted("logistic regression", scaler, 1.0, rows, flat, seed)


def _fitted(
    name: str,
    first: Any,
    strength: float,
    rows: dict[str, list[dict[str, Any]]],
    x: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    names = {split: [r["label"] for r in rows[split]] for split in ("train", "test")}
    last = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
    guess = make_pipeline(first, last).fit(x["train"], names["train"]).predict(x["test"])
    return {
        "name": name,
        "value": float(accuracy_score(names["test"], guess)),
        "macro_f1": float(f1_score(names["test"], guess, average="macro", zero_division=0.0)),
    }


def confusion(logits: np.ndarray, targets: list[list[int]], labels: list[str]) -> dict[str, Any]:
    """Counts [truth][answer] over all labels."""
    truth = [t for row in targets for t in row]
    matrix = confusion_matrix(truth, logits.argmax(1), labels=range(len(labels)))
    return {"labels": labels, "matrix": matrix.tolist()}
