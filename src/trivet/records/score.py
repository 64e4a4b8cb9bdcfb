"""score.json: how one backend answered the held-out rows. curve.json: how tuning went."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trivet.records.record import Record


class Metric(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float


class Baseline(Record):
    """What a simple stock model reaches on the same rows; `value`: of the task's first metric."""

    file: ClassVar[str] = "baseline.json"

    name: str
    value: float
    second: Metric


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
    bit-exact backend.
    """

    file: ClassVar[str] = "score.json"

    metric: Metric
    second: Metric
    rows: int
    ms_per_row: float
    threads: int
    machine: str
    vectors: Vectors | None = None


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
