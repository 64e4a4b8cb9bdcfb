"""parity.json: each stage beside the one before it, and the gates that decide."""

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trivet.plugins import BACKENDS
from trivet.records.record import Record
from trivet.records.score import Baseline, Metric, Vectors
from trivet.records.stock import Invariance, StockCheck


class Stage(BaseModel):
    """One backend's row. Against `reference`, the stage before: `delta` of the metric, `agreement`
    as a share of equal answers, `max_abs_diff` of logits. `bit_exact`: whether all logits are
    equal, of backends that promise it; `rows_equal`: on how many rows. `stock`: what the folder's
    own verify.py says; `invariance`: whether a row's answer depends on those beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str
    target: str
    rows: int
    metric: str
    lower_is_better: bool
    value: float
    second: Metric
    reference: str | None
    delta: float | None
    agreement: float | None
    max_abs_diff: float | None
    bit_exact: bool | None
    rows_equal: int | None
    vectors: Vectors | None
    ms_per_row: float
    stock: StockCheck | None = None
    invariance: Invariance | None = None
    gate: str = ""
    measured: str = ""
    passed: bool = True


class Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str
    value: float | None
    gate: str
    measured: str


class ParityTable(Record):
    """`promoted` when every gate holds; `refused` names those that do not, and what is missing.

    `notes`: what a reader must know of a target that took part.
    """

    file: ClassVar[str] = "parity.json"
    newest: ClassVar[int] = 3
    version: int = 3

    run: str
    promoted: bool
    task: str
    metric: str
    lower_is_better: bool
    threads: int
    machine: str
    baseline: Baseline | None
    stages: list[Stage]
    refused: list[Refusal]
    notes: list[str] = Field(default_factory=list)

    @property
    def baseline_wins(self) -> bool:
        """Whether the baseline does at least as well as the first stage."""
        if self.baseline is None:
            return False
        above = self.baseline.value - self.stages[0].value
        return above <= 0 if self.lower_is_better else above >= 0

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        if "hops" not in tree:
            return tree
        new = {k: v for k, v in tree.items() if k != "hops"}
        new["lower_is_better"] = tree["metric"] == "loss"
        if base := tree["baseline"]:
            new["baseline"] = {
                "name": base["name"],
                "value": base["value"],
                "second": {"name": "macro_f1", "value": base["macro_f1"]},
            }
        new["stages"] = [_stage(hop) for hop in tree["hops"]]
        return new


def _stage(hop: dict[str, Any]) -> dict[str, Any]:
    """A row of version 1, which called a stage hop, its reference before, and knew no target."""
    new = {k: v for k, v in hop.items() if k not in ("before", "exact")}
    name = hop["backend"]
    new["target"] = BACKENDS[name].target.name if name in BACKENDS else ""
    new["lower_is_better"] = hop["metric"] == "loss"
    new |= {"reference": hop["before"], "bit_exact": hop["exact"]}
    numbers = re.search(r"([\d,]+) of ([\d,]+) vectors equal", hop["measured"])
    equal, rows = (int(n.replace(",", "")) for n in numbers.groups()) if numbers else (0, 0)
    vectors = {"rows": rows, "equal": equal} if numbers else None  # it had them in words alone
    return {"rows_equal": None, "vectors": vectors} | new
