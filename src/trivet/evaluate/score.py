"""The one scorer: every backend answers the same held-out rows, and the same lines judge it.

What is measured of the answers is the task's (tasks/). What each row adds to the metric is kept, so
that whoever answered the same rows can be compared row by row.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.evaluate.machine import machine
from trivet.plugins import TASKS
from trivet.records.card import Card
from trivet.records.score import Confusion, Score
from trivet.tasks.example import Answers, Row
from trivet.tasks.task import Task

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.backends.backend import Backend, Session, Talking
    from trivet.config.recipe import Recipe

REPLIES, REPLY_TOKENS = 20, 24  # greedy replies that are judged, and their longest
LOGITS, COUNTS = "logits.npy", "counts.npy"


class Scored(Artifact):
    """One backend's answers to the test rows: logits.npy, score.json, tally.npz, and counts.npy,
    how many answers each row has; perhaps confusion.json.
    """

    on_gpu = True
    kept_inside = True
    timeout = 6 * HOUR

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend
        self.name, self.title = f"score-{backend.name}", f"score {backend.name}"

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (self.backend.artifact,)

    def settings(self, run: "Run") -> dict[str, Any]:
        return {"data": run.data.source_md5, "test": run.recipe.data.test}

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        from trivet.data import dataset

        task = dataset.code_roots(recipe.data.task)
        return (type(self).__module__, type(self.backend).__module__, *task)

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        import torch

        from trivet.data import dataset

        rows = dataset.read(run.recipe.data, run.data.folder)["test"]
        artifact = run.path(self.backend.artifact)
        card, threads = Card.read(artifact), torch.get_num_threads()
        task = TASKS[card.task]
        session = self.backend.open(artifact, threads)
        answers = ask(session, rows, task, watch.on_progress)
        targets = self._targets(run, card, rows, task)
        tally, second = task.metrics(answers, targets, rows, card.labels)
        Score(
            metric=tally.metric(task.metric),
            second=second,
            rows=answers.rows,
            ms_per_row=1000 * answers.seconds / answers.rows,
            threads=threads,
            machine=machine(),
            vectors=self.backend.compare_vectors(artifact),
            held_out=rows_hash(rows),
        ).write(folder)
        tally.save(folder)
        if matrix := task.confusion(answers.logits, targets):
            Confusion(labels=card.labels, matrix=matrix).write(folder)
        np.save(folder / LOGITS, answers.logits)
        np.save(folder / COUNTS, [len(row) for row in targets])

    def _targets(self, run: "Run", card: Card, rows: Sequence[Row], task: Task) -> list[list[int]]:
        """The right classes of each row that a backend answers, at the places that it answers."""
        if task.taught:
            return [[card.labels.index(row["label"])] for row in rows]
        from trivet.tasks.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(run.path(self.backend.artifact))
        return [e.targets for e in task.tokenize(rows, card, card.labels, tokenizer).examples]


def rows_hash(rows: Sequence[Row]) -> str:
    """Of their content, in their order."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def ask(
    session: "Session",
    rows: Sequence[Row],
    task: Task,
    on_progress: Callable[[float], None] = lambda share: None,
    batch: int = 16,
) -> Answers:
    """Every row's logits, in the order of `rows`; asked in batches of rows of like length."""
    order = sorted(range(len(rows)), key=lambda i: len(str(rows[i])))
    out: list[np.ndarray] = [np.empty(0)] * len(rows)
    session.answer([rows[i] for i in order[-batch:]])  # the first call allocates; it is not timed
    start = time.perf_counter()
    for at in range(0, len(order), batch):
        chunk = order[at : at + batch]
        for i, logits in zip(chunk, session.answer([rows[i] for i in chunk]), strict=True):
            out[i] = logits
        on_progress(min(1.0, (at + batch) / len(rows)))
    seconds = time.perf_counter() - start
    replies = []
    if task.talks:
        talking = cast("Talking", session)
        replies = [talking.reply(task.asked(r), REPLY_TOKENS) for r in rows[:REPLIES]]
    return Answers(np.concatenate(out).astype(np.float32), len(rows), seconds, replies)
