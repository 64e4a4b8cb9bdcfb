"""parity.json: each stage beside the one before it, and the gates that decide."""

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trivet.plugins import BACKENDS
from trivet.records.record import Record
from trivet.records.score import Baseline, Difference, Metric, Vectors
from trivet.records.stock import Invariance, StockCheck


class Stage(BaseModel):
    """One backend's row; `low`, `high`: the 95 % interval of its `value`. Against `reference`, the
    stage before: `delta` of the metric, in `difference` with its paired interval, `agreement` as a
    share of equal answers with its own, `max_abs_diff` of logits. `bit_exact`: whether all logits
    are equal, of backends that promise it; `rows_equal`: on how many rows. `stock`: what the
    folder's own verify.py says; `invariance`: whether a row's answer depends on those beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str
    target: str
    rows: int
    metric: str
    lower_is_better: bool
    value: float
    low: float | None = None
    high: float | None = None
    second: Metric
    reference: str | None
    delta: float | None
    difference: Difference | None = None
    agreement: float | None
    agreement_low: float | None = None
    agreement_high: float | None = None
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


class Contest(BaseModel):
    """The first stage against that of the champion, `model` version `version`, on the same rows.

    Without a `difference` they could not be compared, and `note` says why.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str
    difference: Difference | None = None
    note: str = ""

    def words(self, lower_is_better: bool) -> str:
        """As "0.4 points ± 1.1 better than home version 3"."""
        rival = f"{self.model} version {self.version}"
        if self.difference is None:
            return f"not compared with {rival}: {self.note}"
        return f"{compared(self.difference, lower_is_better)} {rival}"


def compared(difference: Difference, lower_is_better: bool) -> str:
    """As "0.4 points ± 1.1 better than"."""
    gain = difference.gain(lower_is_better).value
    side = "better than" if gain > 0 else "worse than" if gain < 0 else "from"
    return f"{difference.words(lower_is_better)} {side}"


class ParityTable(Record):
    """`promoted` when every gate holds; `refused` names those that do not, and what is missing.

    `baselines`: what is simple, on the same rows. `champion`: the contest with it, where there is
    one. `notes`: what a reader must know of a target that took part, and of what is missing.
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
    baselines: list[Baseline] = Field(default_factory=list)
    stages: list[Stage]
    refused: list[Refusal]
    champion: Contest | None = None
    notes: list[str] = Field(default_factory=list)

    @property
    def floor(self) -> Baseline | None:
        """The strongest baseline."""
        sign = -1 if self.lower_is_better else 1
        able = [base for base in self.baselines if base.value is not None]
        return max(able, key=lambda base: sign * (base.value or 0.0), default=None)

    @property
    def floor_words(self) -> str:
        """How the first stage stands to the strongest baseline; "" where there is none."""
        base = self.floor
        if base is None or base.difference is None:
            return ""
        words = f"{compared(base.difference, self.lower_is_better)} {base.name}"
        known = base.difference.low is not None  # not of an old run
        chance = known and not base.difference.sure
        return f"{words}: on these rows that may be chance" if chance else words

    @property
    def standing(self) -> list[str]:
        """How the first stage stands to the floor and to the champion, a sentence each."""
        first, lower = self.stages[0].backend if self.stages else "", self.lower_is_better
        words = [self.floor_words, self.champion.words(lower) if self.champion else ""]
        return [f"{first}: {text}" for text in words if text]

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        """Version 2 knew one baseline and no intervals; version 1 called a stage hop."""
        new = {k: v for k, v in tree.items() if k not in ("hops", "baseline")}
        base = tree.get("baseline")
        if "hops" in tree:
            new["lower_is_better"] = tree["metric"] == "loss"
            if base:
                second = {"name": "macro_f1", "value": base["macro_f1"]}
                base = {"name": base["name"], "value": base["value"], "second": second}
            new["stages"] = [_stage(hop) for hop in tree["hops"]]
        if base:
            delta = new["stages"][0]["value"] - base["value"]
            new["baselines"] = [base | {"difference": {"value": delta}}]
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
