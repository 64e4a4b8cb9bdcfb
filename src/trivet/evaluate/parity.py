"""The parity table: each stage beside the one before it, and the gates that decide.

A stage is a step away from the tuned model: merging, exporting, rounding, distilling, compiling.
Its row says how many answers stayed the same, how far the logits moved, and what that cost in the
metric. A stage that breaks its gate is named, and nothing is promoted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trivet.backends.backend import Backend
from trivet.backends.gate import First
from trivet.config.recipe import Recipe
from trivet.evaluate import independence
from trivet.evaluate.score import LOGITS
from trivet.plugins import TASKS
from trivet.records.parity import ParityTable, Refusal, Stage
from trivet.records.score import Baseline, Score
from trivet.records.stock import Invariance, StockCheck


class GateRefused(Exception):
    """A stage lost more than its gate allows; the message names stage, value and gate."""

    def __init__(self, table: ParityTable) -> None:
        words = (f"{r.backend}: {r.measured}, gate: {r.gate}" for r in table.refused)
        super().__init__(f"{table.run} is not promoted. {'; '.join(words)}.")
        self.table = table


@dataclass(frozen=True)
class Row:
    """One backend's score, the folder in which its logits lie, and the checks that share nothing
    with the scorer, where it has them.
    """

    backend: Backend
    score: Score
    folder: Path
    stock: StockCheck | None = None
    invariance: Invariance | None = None

    def logits(self) -> np.ndarray:
        return np.load(self.folder / LOGITS, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def compare(
    recipe: Recipe,
    run: str,
    rows: list[Row],
    baseline: Baseline | None,
    missing: dict[Backend, str],
) -> ParityTable:
    """The table of the backends that answered; `missing`: why the others did not (a tool failed),
    so that their gates do not hold.
    """
    task = TASKS[recipe.data.task]
    backends = [row.backend for row in rows]
    stages = []
    for row in rows:
        before = row.backend.reference_among(backends)
        reference = rows[backends.index(before)] if before else None
        stages.append(_judged(_stage(row, reference, task.lower_is_better), row.backend, recipe))
    refused = [
        Refusal(backend=s.backend, value=s.value, gate=s.gate, measured=s.measured)
        for s in stages
        if not s.passed
    ]
    for backend, why in missing.items():
        before = backend.reference_among(backends)
        gate = backend.gate.words(before.name if before else "none")
        refused.append(
            Refusal(backend=backend.name, value=None, gate=gate, measured=f"no answers: {why}")
        )
    return ParityTable(
        run=run,
        promoted=not refused,
        task=task.name,
        metric=rows[0].score.metric.name,
        lower_is_better=task.lower_is_better,
        threads=rows[0].score.threads,
        machine=rows[0].score.machine,
        baseline=baseline,
        stages=stages,
        refused=refused,
        notes=[*_notes(backends), *independence.notes(recipe, backends, stages)],
    )


def _notes(backends: list[Backend]) -> list[str]:
    targets = list(dict.fromkeys(backend.target for backend in backends))
    return [t.note for t in targets if t.note] if len(targets) > 1 else []


def check(table: ParityTable) -> None:
    """Raise GateRefused when the table holds a stage that broke its gate."""
    if table.refused:
        raise GateRefused(table)


def _stage(row: Row, reference: Row | None, lower_is_better: bool) -> Stage:
    score = row.score
    stage = Stage(
        backend=row.backend.name,
        target=row.backend.target.name,
        rows=score.rows,
        metric=score.metric.name,
        lower_is_better=lower_is_better,
        value=score.metric.value,
        second=score.second,
        reference=None,
        delta=None,
        agreement=None,
        max_abs_diff=None,
        bit_exact=None,
        rows_equal=None,
        vectors=score.vectors,
        ms_per_row=score.ms_per_row,
        stock=row.stock,
        invariance=row.invariance,
    )
    if reference is None:
        return stage
    ours, theirs = row.logits(), reference.logits()
    figures = {
        "reference": reference.backend.name,
        "delta": score.metric.value - reference.score.metric.value,
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "max_abs_diff": float(max(np.abs(a - b).max() for a, b in _chunks(ours, theirs))),
    }
    if row.backend.bit_exact:
        equal = int((ours == theirs).all(1).sum())
        vectors = score.vectors
        whole = vectors is not None and vectors.equal == vectors.rows
        figures |= {"rows_equal": equal, "bit_exact": equal == len(ours) and whole}
    return stage.model_copy(update=figures)


def _judged(stage: Stage, backend: Backend, recipe: Recipe) -> Stage:
    gate = backend.gate if stage.reference else First()
    verdict = gate.judge(stage, recipe.gates)
    verdict = independence.judge(verdict, stage, backend, recipe.gates)
    return stage.model_copy(update=verdict._asdict())


def _chunks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((a[i : i + 256], b[i : i + 256]) for i in range(0, len(a), 256))
