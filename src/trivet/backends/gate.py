"""What a stage may lose, compared with the one before it: a sentence of the recipe.

Each backend has one. A gate says it in words, measures, and holds or does not.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from trivet.records.parity import compared

if TYPE_CHECKING:
    from trivet.config.gates import Gates
    from trivet.records.parity import Contest, Stage
    from trivet.records.score import Baseline, Difference


class Verdict(NamedTuple):
    gate: str
    measured: str
    passed: bool

    def and_also(self, other: "Verdict") -> "Verdict":
        """Both hold; one without words says nothing."""
        gate = "; ".join(filter(None, (self.gate, other.gate)))
        measured = "; ".join(filter(None, (self.measured, other.measured)))
        return Verdict(gate, measured, self.passed and other.passed)


NONE = Verdict("", "", True)


class Gate(ABC):
    """`key`: of `[gates]`, empty where there is nothing to choose; its `default`, and the `most`
    that may be set.
    """

    key: str = ""
    default: float = 0.0
    most: float | None = None

    @abstractmethod
    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        """Of a stage that has a reference and figures, and no verdict yet."""

    def words(self, reference: str) -> str:
        """The gate in words, for a stage that gave no answers."""
        return f"answers compared with {reference}"


class Agreement(Gate):
    """At least this share of answers as before."""

    def __init__(self, key: str, default: float) -> None:
        self.key, self.default, self.most = key, default, 1.0

    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        least = gates.limit(self.key)
        assert stage.agreement is not None
        words = f"agreement with {stage.reference} at least {least:g}"
        measured = f"agreement {stage.agreement:.4f}"
        if stage.agreement_low is not None:
            measured += f" ({stage.agreement_low:.4f} to {stage.agreement_high:.4f})"
        return Verdict(words, measured, stage.agreement >= least)


class Points(Gate):
    """At most this many points, hundredths of the metric, worse than before."""

    def __init__(self, key: str, default: float) -> None:
        self.key, self.default = key, default

    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        most = gates.limit(self.key)
        assert stage.delta is not None
        lost = 0.0 + 100 * (stage.delta if stage.lower_is_better else -stage.delta)
        name = f"point{'' if most == 1 else 's'} of {stage.metric}"
        words = f"at most {most:g} {name} below {stage.reference}"
        # 1e-9: the gate is a decimal number, the difference of two ratios is not
        return Verdict(words, f"{lost:.2f} points{_half(stage)} lost", lost <= most + 1e-9)


class BitExact(Gate):
    """All logits as before, on every row and every random vector."""

    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        assert stage.vectors and stage.bit_exact is not None
        equal = f"{stage.vectors.equal:,} of {stage.vectors.rows:,} vectors equal"
        measured = f"largest difference {stage.max_abs_diff:g}, {equal}"
        return Verdict(self.words(str(stage.reference)), measured, stage.bit_exact)

    def words(self, reference: str) -> str:
        return f"logits equal to {reference} on every row and every random vector"


class First(Gate):
    """Of the stage that has none before it: the tuned model's own least figure, `min_value`."""

    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        least = gates.min_value
        if least is None:
            return NONE
        words = f"{stage.metric} at {'most' if stage.lower_is_better else 'least'} {least:g}"
        above, measured = stage.value - least, f"{stage.value:.4f}"
        if stage.low is not None:
            measured += f" ({stage.low:.4f} to {stage.high:.4f})"
        return Verdict(words, measured, above <= 0 if stage.lower_is_better else above >= 0)


class Floor(Gate):
    """Of what a run ships: not worse than the strongest baseline, `gates.beats_baseline`."""

    def __init__(self, base: "Baseline", difference: "Difference") -> None:
        self.base, self.difference = base, difference

    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        measured = f"{compared(self.difference, stage.lower_is_better)} it"
        gain = self.difference.gain(stage.lower_is_better).value
        if not gates.beats_baseline:
            return NONE
        words = f"not worse than {self.base.name} ({self.base.value:.4f}; gates.beats_baseline)"
        return Verdict(words, measured, gain >= 0)


class Champion(Gate):
    """Of the first stage: not surely worse than the champion's, `gates.beats_champion`."""

    def __init__(self, contest: "Contest") -> None:
        self.contest = contest

    def judge(self, stage: "Stage", gates: "Gates") -> Verdict:
        difference, contest = self.contest.difference, self.contest
        if difference is None or not gates.beats_champion:
            return NONE
        words = f"not surely worse than {contest.model} version {contest.version}"
        worse = difference.gain(stage.lower_is_better).value < 0
        return Verdict(
            f"{words} (gates.beats_champion)",
            f"{compared(difference, stage.lower_is_better)} it",
            not (worse and difference.sure),
        )


def _half(stage: "Stage") -> str:
    """Half the width of a difference's interval, in points."""
    change = stage.difference
    if change is None or change.low is None or change.high is None:
        return ""
    return f" ± {50 * (change.high - change.low):.2f}"
