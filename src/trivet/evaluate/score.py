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
from trivet.evaluate import invariance
from trivet.evaluate.machine import machine
from trivet.plugins import TASKS
from trivet.records.card import Card
from trivet.records.record import write_text
from trivet.records.score import Confusion, Score
from trivet.tasks.example import Answers, Row
from trivet.tasks.task import Task

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.backends.backend import Backend, Session, Talking
    from trivet.config.recipe import Recipe

REPLIES, REPLY_TOKENS = 20, 24  # greedy replies that are judged, and their longest
LOGITS, COUNTS, REPLIES_FILE = "logits.npy", "counts.npy", "replies.json"


class Scored(Artifact):
    """One backend's answers to the test rows: logits.npy, replies.json, score.json, tally.npz, and
    counts.npy, how many answers each row has; perhaps confusion.json and invariance.json.
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

        from trivet.backends.sessions.language_model import LanguageModel
        from trivet.data import dataset

        rows = dataset.read(run.recipe.data, run.data.folder)["test"]
        artifact = run.path(self.backend.artifact)
        card, threads = Card.read(artifact), torch.get_num_threads()
        task = TASKS[card.task]
        session = self.backend.open(artifact, threads)
        targets = self.targets(run, card, rows, task)
        to = Table(folder / LOGITS, [len(row) for row in targets])
        answers = ask(session, rows, task, watch.on_progress, to=to)
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
        np.save(folder / COUNTS, [len(row) for row in targets])
        write_text(folder / REPLIES_FILE, json.dumps(answers.replies))
        if isinstance(session, LanguageModel):
            invariance.measure(session, rows, artifact).write(folder)

    def targets(self, run: "Run", card: Card, rows: Sequence[Row], task: Task) -> list[list[int]]:
        """The right classes of each row that a backend answers, at the places that it answers."""
        if task.taught:
            return [[card.labels.index(row["label"])] for row in rows]
        from trivet.tasks.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(run.path(self.backend.artifact))
        return [e.targets for e in task.tokenize(rows, card, card.labels, tokenizer).examples]


def rows_hash(rows: Sequence[Row]) -> str:
    """Of their content, in their order."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


class Table:
    """A file of logits, float32 [answers, classes], that is filled row by row in any order, and
    that nobody holds in memory: 600 replies of 60 tokens are 7 GB of a vocabulary's logits.

    `counts`: how many answers each row has.
    """

    def __init__(self, file: Path, counts: Sequence[int]) -> None:
        self.file, self.starts = file, np.cumsum([0, *counts])

    def create(self, classes: int) -> None:
        shape = (int(self.starts[-1]), classes)
        table = np.lib.format.open_memmap(self.file, "w+", np.float32, shape)
        self.classes, self.offset = classes, table.offset

    def put(self, row: int, logits: np.ndarray) -> None:
        assert logits.shape == (self.starts[row + 1] - self.starts[row], self.classes)
        with self.file.open("r+b") as out:  # written, not mapped: what is mapped counts as memory
            out.seek(self.offset + 4 * self.classes * int(self.starts[row]))
            out.write(np.ascontiguousarray(logits, np.float32).tobytes())

    def read(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def ask(
    session: "Session",
    rows: Sequence[Row],
    task: Task,
    on_progress: Callable[[float], None] = lambda share: None,
    batch: int = 0,
    to: Table | None = None,
) -> Answers:
    """Every row's logits, in the order of `rows`; asked in batches of rows of like length.

    `batch`: 0 = as `batch_size` says. `to`: where they are written as they come; in memory without.
    """
    batch = batch or batch_size(task)
    order = sorted(range(len(rows)), key=lambda i: len(str(rows[i])))
    out: list[np.ndarray] = [np.empty(0)] * len(rows)
    first = session.answer([rows[i] for i in order[-batch:]])  # it allocates; it is not timed
    if to:
        to.create(first[0].shape[1])
    del first
    seconds = 0.0
    for at in range(0, len(order), batch):
        chunk = order[at : at + batch]
        start = time.perf_counter()
        answers = session.answer([rows[i] for i in chunk])
        seconds += time.perf_counter() - start
        for i, logits in zip(chunk, answers, strict=True):
            if to:
                to.put(i, logits)
            else:
                out[i] = logits
        on_progress(min(1.0, (at + batch) / len(rows)))
    replies = []
    if task.talks:
        talking = cast("Talking", session)
        replies = [talking.reply(task.asked(r), REPLY_TOKENS) for r in rows[:REPLIES]]
    logits = to.read() if to else np.concatenate(out).astype(np.float32)
    return Answers(logits, len(rows), seconds, replies)


def batch_size(task: Task) -> int:
    """Rows asked at once: fewer where an answer is a whole vocabulary's logits at each token."""
    return 4 if task.talks else 16
