"""score.json: how one backend answered the held-out rows. curve.json: how tuning went."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trivet.records.record import Record


class Metric(BaseModel):
    """`low`, `high`: its 95 % interval over held-out rows; None where it is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Difference(BaseModel):
    """Of a metric between two that answered the same rows, paired: `low`, `high` its 95 % interval,
    None where it is not known; `p_value`: of McNemar's exact test, where rows are right or wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    def gain(self, lower_is_better: bool) -> "Difference":
        """The same with more as the better."""
        if not lower_is_better:
            return self
        ends = [None if end is None else 0.0 - end for end in (self.high, self.low)]
        return self.model_copy(update={"value": 0.0 - self.value, "low": ends[0], "high": ends[1]})

    @property
    def sure(self) -> bool:
        """More than chance: zero is outside the interval, and where there is an exact test, which
        few rows convince less easily, its p is below 0.05.
        """
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        return self.p_value is None or self.p_value < 0.05

    def words(self, lower_is_better: bool) -> str:
        """Its size: "1.2 points ± 1.4" of a share, "0.120 ± 0.030" of a loss."""
        scale, digits = (1, 3) if lower_is_better else (100, 1)
        size = f"{scale * abs(self.value):.{digits}f}"
        unit = "" if lower_is_better else " point" if size == "1.0" else " points"
        if self.low is None or self.high is None:
            return size + unit
        return f"{size}{unit} ± {scale * (self.high - self.low) / 2:.{digits}f}"


class Baseline(Record):
    """What a simple stock model reaches on the same rows. `value`, `low`, `high`: of the task's
    first metric and its 95 % interval, None where it has none. `difference`: the run's first stage
    less this, once they were compared.
    """

    file: ClassVar[str] = "baseline.json"
    newest: ClassVar[int] = 2
    version: int = 2

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    second: Metric
    difference: Difference | None = None


class HeldOut(Record):
    """How one stage did, row by row: the metric is the sum of `numerator` over that of
    `denominator`. `rows`: sha256 of the rows, in their order; two with the same are comparable.
    """

    file: ClassVar[str] = "held-out.json"

    backend: str
    metric: str
    rows: str
    numerator: list[float]
    denominator: list[float]


class Vectors(BaseModel):
    """Random inputs on which a bit-exact backend was compared: how many, and on how many equal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    equal: int


class Confusion(Record):
    """Counts [truth][answer]."""

    file: ClassVar[str] = "confusion.json"

    labels: list[str]
    matrix: list[list[int]]


class Score(Record):
    """`ms_per_row`: milliseconds a row, on `threads` threads of `machine`. `vectors`: of a
    bit-exact backend. `held_out`: sha256 of the rows; "" where it was not written down.
    """

    file: ClassVar[str] = "score.json"
    newest: ClassVar[int] = 2
    version: int = 2

    metric: Metric
    second: Metric
    rows: int
    ms_per_row: float
    threads: int
    machine: str
    vectors: Vectors | None = None
    held_out: str = ""


class Point(BaseModel):
    """One optimiser step; `valid_loss` at the end of an epoch. Losses are nats an answer; one that
    is not finite is written as Python's json does, NaN.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    step: int
    epoch: int
    train_loss: float
    valid_loss: float | None
    learning_rate: float


class Curve(Record):
    file: ClassVar[str] = "curve.json"
    newest: ClassVar[int] = 2
    version: int = 2

    points: list[Point]

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        return {"points": tree} if isinstance(tree, list) else tree
