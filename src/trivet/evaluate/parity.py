"""The parity table: each stage beside the one before it, and the gates that decide.

A stage is a step away from the tuned model: merging, exporting, rounding, distilling, compiling.
Its row says how many answers stayed the same, how far the logits moved, and what that cost in the
metric. A stage that breaks its gate is named, and nothing is promoted. Two figures of the same rows
are compared row by row, with the interval in which their difference lies.

The first stage stands on a floor, the strongest baseline, and is measured against the champion; it
is the tuned model, or the student where no language model takes part. Then what answers by default,
the student in fixed point, stands on the floor too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trivet.backends.backend import Backend
from trivet.backends.gate import Champion, First, Floor, Gate, Verdict
from trivet.config.recipe import Recipe
from trivet.evaluate import independence
from trivet.evaluate.baseline import Peer
from trivet.evaluate.score import COUNTS, LOGITS
from trivet.plugins import TASKS
from trivet.records.parity import Contest, ParityTable, Refusal, Stage
from trivet.records.score import Baseline, HeldOut, Score
from trivet.records.stock import Invariance, StockCheck
from trivet.tasks.tally import Tally


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

    def tally(self) -> Tally:
        return Tally.load(self.folder)

    def by_row(self, answers: np.ndarray) -> Tally:
        """The share of true ones in bool [answers], row by row."""
        counts = np.load(self.folder / COUNTS, allow_pickle=False)
        rows = np.split(answers, np.cumsum(counts)[:-1])
        return Tally(np.array([float(row.sum()) for row in rows]), counts.astype(float))

    def held_out(self) -> HeldOut:
        """What a later run needs to be compared with this one."""
        tally = self.tally()
        return HeldOut(
            backend=self.backend.name,
            metric=self.score.metric.name,
            rows=self.score.held_out,
            numerator=tally.numerator.tolist(),
            denominator=tally.denominator.tolist(),
        )


class Rival(NamedTuple):
    """The champion: a registered model's name and version, and how it did, where that is known."""

    model: str
    version: str
    held_out: HeldOut | None


def compare(
    recipe: Recipe,
    run: str,
    rows: list[Row],
    peers: Sequence[Peer],
    missing: dict[Backend, str],
    rival: Rival | None = None,
    notes: Sequence[str] = (),
) -> ParityTable:
    """The table of the backends that answered; `missing`: why the others did not (a tool failed),
    so that their gates do not hold. `notes`: what else is missing.
    """
    task = TASKS[recipe.data.task]
    backends = [row.backend for row in rows]
    stages = []
    for row in rows:
        before = row.backend.reference_among(backends)
        reference = rows[backends.index(before)] if before else None
        stages.append(_judged(_stage(row, reference, task.lower_is_better), row.backend, recipe))
    table = ParityTable(
        run=run,
        promoted=False,
        task=task.name,
        metric=rows[0].score.metric.name,
        lower_is_better=task.lower_is_better,
        threads=rows[0].score.threads,
        machine=rows[0].score.machine,
        baselines=[_beside(peer, rows[0]) for peer in peers],
        stages=stages,
        refused=[],
        champion=_contest(rows[0], rival) if rival else None,
        notes=[*_notes(backends), *independence.notes(recipe, backends, stages), *notes],
    )
    return _verdict(_standing(table, recipe, rows, peers), missing, backends)


def _beside(peer: Peer, first: Row) -> Baseline:
    difference = first.tally().minus(peer.tally) if peer.tally else None
    return peer.figures.model_copy(update={"difference": difference})


def _contest(first: Row, rival: Rival) -> Contest:
    """The first stage against the champion's, on the same rows or not at all."""
    contest = Contest(model=rival.model, version=rival.version)
    own, other = first.held_out(), rival.held_out
    if other is None:
        return contest.model_copy(update={"note": "its answers by row were not written down"})
    if (own.rows, own.metric) != (other.rows, other.metric):
        return contest.model_copy(update={"note": "it answered other held-out rows"})
    return contest.model_copy(update={"difference": first.tally().minus(Tally.of(other))})


def _standing(
    table: ParityTable, recipe: Recipe, rows: list[Row], peers: Sequence[Peer]
) -> ParityTable:
    """The same table with the floor and the champion in the verdicts of what they are gates of."""
    gates: dict[str, list[Gate]] = {row.backend.name: [] for row in rows}
    if base := table.floor:
        tally = next(peer.tally for peer in peers if peer.figures.name == base.name)
        assert tally
        alone = recipe.tune is None
        for row in (r for r in rows if r is rows[0] or (alone and r.backend.preferred)):
            gates[row.backend.name].append(Floor(base, row.tally().minus(tally)))
    if table.champion:
        gates[rows[0].backend.name].append(Champion(table.champion))
    stages = []
    for stage in table.stages:
        verdict = Verdict(stage.gate, stage.measured, stage.passed)
        for gate in gates[stage.backend]:
            verdict = verdict.and_also(gate.judge(stage, recipe.gates))
        stages.append(stage.model_copy(update=verdict._asdict()))
    return table.model_copy(update={"stages": stages})


def _verdict(
    table: ParityTable, missing: dict[Backend, str], backends: list[Backend]
) -> ParityTable:
    refused = [
        Refusal(backend=s.backend, value=s.value, gate=s.gate, measured=s.measured)
        for s in table.stages
        if not s.passed
    ]
    for backend, why in missing.items():
        before = backend.reference_among(backends)
        gate = backend.gate.words(before.name if before else "none")
        refused.append(
            Refusal(backend=backend.name, value=None, gate=gate, measured=f"no answers: {why}")
        )
    return table.model_copy(update={"refused": refused, "promoted": not refused})


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
        low=score.metric.low,
        high=score.metric.high,
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
    same = row.by_row(ours.argmax(1) == theirs.argmax(1))
    low, high = same.interval()
    figures = {
        "reference": reference.backend.name,
        "delta": score.metric.value - reference.score.metric.value,
        "difference": row.tally().minus(reference.tally()),
        "agreement": same.value,
        "agreement_low": low,
        "agreement_high": high,
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
