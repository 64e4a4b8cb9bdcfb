"""Two runs side by side: what differs in the recipe, and every stage's figures."""

import json
from pathlib import Path
from typing import Any, ClassVar

from trivet.config.recipe import dotted
from trivet.records.parity import ParityTable
from trivet.records.record import Record
from trivet.records.score import Difference, HeldOut
from trivet.tasks.tally import Tally

FIGURES = ("value", "agreement", "max_abs_diff", "ms_per_row", "passed")
Figure = float | bool | None


class Comparison(Record):
    """Pairs, the first run's before the second's. `recipe`: keys that differ; `stages`: backend ->
    figure, of backends that both have. `difference`: the second run's first stage less the first
    run's, paired; None where they did not answer the same rows, or did not write that down.
    """

    file: ClassVar[str] = "comparison.json"
    newest: ClassVar[int] = 2
    version: int = 2

    runs: tuple[str, str]
    recipe: dict[str, tuple[Any, Any]]
    stages: dict[str, dict[str, tuple[Figure, Figure]]]
    lower_is_better: bool = False
    difference: Difference | None = None


def compare_runs(first: Path, second: Path) -> Comparison:
    """Of two runs' folders. UserError where one is not readable."""
    one, other = (
        dict(dotted(json.loads((f / "recipe.json").read_text(encoding="utf-8"))))
        for f in (first, second)
    )
    tables = [
        {stage.backend: stage for stage in ParityTable.read(f).stages} for f in (first, second)
    ]
    keys = [*one, *(key for key in other if key not in one)]
    return Comparison(
        runs=(first.name, second.name),
        recipe={k: (one.get(k), other.get(k)) for k in keys if one.get(k) != other.get(k)},
        stages={
            name: {f: (getattr(stage, f), getattr(tables[1][name], f)) for f in FIGURES}
            for name, stage in tables[0].items()
            if name in tables[1]
        },
        lower_is_better=next(iter(tables[0].values())).lower_is_better,
        difference=_difference(first, second),
    )


def _difference(first: Path, second: Path) -> Difference | None:
    one, other = (HeldOut.read_if_there(folder) for folder in (first, second))
    if one is None or other is None or (one.rows, one.metric) != (other.rows, other.metric):
        return None
    return Tally.of(other).minus(Tally.of(one))
