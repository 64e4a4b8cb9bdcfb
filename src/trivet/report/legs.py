"""The trivet that the page draws: a leg for each target, the stages down to the floor."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trivet.plugins import BACKENDS
from trivet.records.parity import Stage


@dataclass(frozen=True)
class Leg:
    """`start`: the stage of another leg that its first stage is compared with, None at the top.

    `title`, `by` and `note` are the target's own words.
    """

    title: str
    by: str
    note: str
    start: Stage | None
    stages: list[Stage]

    @property
    def passed(self) -> bool:
        return all(stage.passed for stage in self.stages)

    @property
    def aside(self) -> dict[str, list[str]]:
        """By their reference, the stages that are not compared with the box above them."""
        other: dict[str, list[str]] = {}
        for above, stage in pairwise(self.stages):
            if stage.reference and stage.reference != above.backend:
                other.setdefault(stage.reference, []).append(stage.backend)
        return other


def legs(stages: Sequence[Stage]) -> list[Leg]:
    """In the order of the table. A stage whose backend is not registered any more, and whose target
    is therefore not known, goes on in the leg of its reference where that is another such one.
    """
    by_name = {stage.backend: stage for stage in stages}
    members: dict[str, list[Stage]] = {}
    for stage in stages:
        members.setdefault(_leg(stage, by_name), []).append(stage)
    return [_named(name, own, by_name) for name, own in members.items()]


def words(backend: str) -> str:
    """What a backend is; nothing of one that is not registered any more."""
    return BACKENDS[backend].words if backend in BACKENDS else ""


def _leg(stage: Stage, by_name: dict[str, Stage]) -> str:
    before = by_name.get(stage.reference or "")
    if stage.target:
        return stage.target
    return _leg(before, by_name) if before and not before.target else stage.backend


def _named(name: str, own: list[Stage], by_name: dict[str, Stage]) -> Leg:
    start = by_name.get(own[0].reference or "")
    targets = [BACKENDS[s.backend].target for s in own if s.backend in BACKENDS]
    if not targets:
        return Leg(name, "", "", start, own)
    target = targets[0]
    return Leg(target.title, target.by, target.note, start, own)
