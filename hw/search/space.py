"""The points of a search, and which of them come next, by those that were tried.

Which point comes next is Optuna's (TPE, three objectives); it keeps no state of its own, so the
trials' files are all that a search that was stopped needs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.hw.search.trial import Point, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = dict[str, "BaseDistribution"]
Params = dict[str, int | float]  # Optuna's names: "hidden.0", "weight_bits.1", …

RANDOM = 8  # points before Optuna has seen enough to prefer some


def space(hidden: Sequence[int], layers: int) -> Space:
    """Half to twice each of the sizes `hidden`, and bits and zeros for each of `layers` layers.

    A network whose sizes are not to be searched, such as a user's own module, has no `hidden`.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    ranges: Space = {}
    for at, size in enumerate(hidden):
        ranges[f"hidden.{at}"] = IntDistribution(max(size // 2, 1), size * 2)
    for at in range(layers):
        ranges[f"weight_bits.{at}"] = IntDistribution(2, 6)
        # the weights that stay make the size: as many points with few of them as with many
        ranges[f"density.{at}"] = FloatDistribution(0.05, 1.0, log=True)
    for at in range(layers - 1):
        ranges[f"activation_bits.{at}"] = IntDistribution(2, 8)
    return ranges


def propose(ranges: Space, trials: Sequence[Trial], seed: int, number: int) -> list[Point]:
    """Up to `number` points that no trial has had; the same trials and seed, the same points."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=RANDOM, seed=seed + len(trials), multivariate=True, constant_liar=True
    )
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
    for trial in trials:
        params = _params(trial.point, ranges)
        values = [trial.accuracy, trial.cost, trial.cycles]
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=ranges, values=values)
        )
    former, points = [trial.point for trial in trials], list[Point]()
    for _ in range(4 * number):  # a small space runs out of new points
        point = _point(study.ask(ranges).params)
        if point not in former + points and len(points) < number:
            points.append(point)
    return points


def _point(params: Params) -> Point:
    """`{"hidden.0": 24, …}` to a point; the logits' bits are the last layer's sum."""
    lists: dict[str, list[int | float]] = {}
    for name in sorted(params, key=lambda name: int(name.split(".")[1])):
        lists.setdefault(name.split(".")[0], []).append(params[name])
    return Point.model_validate(
        {
            "hidden": lists.get("hidden", []),
            "weight_bits": lists["weight_bits"],
            "activation_bits": [*lists.get("activation_bits", []), 8],
            "sparsity": [round(1 - density, 2) for density in lists["density"]],
        }
    )


def _params(point: Point, ranges: Space) -> Params:
    values = point.model_dump() | {"density": [1 - sparsity for sparsity in point.sparsity]}
    parts = (name.split(".") for name in ranges)
    return {f"{name}.{at}": values[name][int(at)] for name, at in parts}
