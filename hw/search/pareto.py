"""Which trial is best: the front that nothing beats, the one within a budget, and their picture."""

from collections.abc import Sequence
from pathlib import Path

from trivet.hw.errors import DesignError
from trivet.hw.search.trial import Trial


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats, from small to large: each is best at something."""

    def objectives(trial: Trial) -> tuple[float, float, int]:
        return -trial.accuracy, trial.cost, trial.cycles

    def beats(a: Trial, b: Trial) -> bool:
        pairs = list(zip(objectives(a), objectives(b), strict=True))
        return any(x != y for x, y in pairs) and all(x <= y for x, y in pairs)

    best = [trial for trial in trials if not any(beats(other, trial) for other in trials)]
    return sorted(best, key=lambda trial: trial.cost)


def choose(trials: Sequence[Trial], max_lut: int, max_cycles: int) -> Trial:
    """The most accurate trial within the budget; the cheapest, if several are.

    What synthesis may find above alkaid's count is allowed for. Raises DesignError when none fits.
    """
    fitting = [t for t in trials if t.lut <= max_lut and t.cycles <= max_cycles]
    if fitting:
        return max(fitting, key=lambda trial: (trial.accuracy, -trial.cost))
    smallest = min(trials, key=lambda trial: trial.lut)
    raise DesignError(
        f"with max_cycles = {max_cycles} none of {len(trials)} students fits; the smallest needs "
        f"about {smallest.lut:.0f} LUTs and {smallest.cycles} cycles. Raise the budget or the "
        "number of trials, or search smaller ones (fewer inputs, smaller hidden layers).",
        parameter="max_lut",
        value=max_lut,
    )


def draw(trials: Sequence[Trial], chosen: Trial, path: Path, max_lut: int | None = None) -> None:
    """All trials, the Pareto front and the chosen one, as PNG or SVG by the path's suffix."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()

    def at(some: Sequence[Trial]) -> tuple[list[float], list[float]]:
        return [trial.lut for trial in some], [100 * trial.accuracy for trial in some]

    cycles = [trial.cycles for trial in trials]
    dots = axes.scatter(*at(trials), c=cycles, cmap="viridis", s=28, zorder=2, label="trial")
    figure.colorbar(dots, label="latency, cycles")
    best, top = [], -1.0
    for trial in front(trials):  # of accuracy and LUTs alone: a line can show no third one
        if trial.accuracy > top:
            best.append(trial)
            top = trial.accuracy
    axes.step(*at(best), where="post", color="0.5", lw=1, zorder=1, label="best for its size")
    axes.scatter(*at([chosen]), marker="*", s=220, color="crimson", zorder=3, label="chosen")
    if max_lut:
        axes.axvline(max_lut, color="crimson", ls=":", lw=1, label="max_lut")
    axes.set(xscale="log", xlabel="LUTs, at most (estimate)", ylabel="validation accuracy, %")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
