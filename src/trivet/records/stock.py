"""stock.json, invariance.json: two checks of a stage that share no mistake with the scorer.

What differs by no more than rounding is the same; how much that is, `evaluate/tolerance.py` says.
"""

from typing import ClassVar

from pydantic import ConfigDict

from trivet.records.record import Record


class StockCheck(Record):
    """The folder's own verify.py on all held-out rows, where Trivet cannot be imported.

    `same`: rows with the same answers, right or wrong by the row's own label, and logits within
    their tolerance; `ties`: those of them whose answers differ by a tie. `equal` of all `answers`.
    `max_abs_diff` of a logit; `tolerances`: the largest difference in units of its row's tolerance.
    `value`: of `metric`, by the row's own labels. `failure`: why it could not answer; the figures
    are then of no row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    file: ClassVar[str] = "stock.json"

    rows: int
    same: int = 0
    ties: int = 0
    answers: int = 0
    equal: int = 0
    max_abs_diff: float | None = None
    tolerances: float | None = None
    metric: str = ""
    value: float | None = None
    failure: str = ""

    @property
    def agreement(self) -> float:
        return self.same / self.rows

    @property
    def words(self) -> str:
        """As "without Trivet 54 of 100 rows are the same, largest difference 3.1e-05"."""
        if self.failure:
            return f"without Trivet it does not answer: {self.failure}"
        words = f"without Trivet {self.same} of {self.rows} rows are the same"
        return (
            f"{words}, largest difference {self.max_abs_diff:.2g}, {self.metric} {self.value:.4f}"
        )


class Invariance(Record):
    """The largest difference of a row's logits from those of the row alone, in units of its
    tolerance: in a `batch` as the scorer makes it, in another `order` beside other rows, padded on
    the `left`. `left` is None where that is not possible, and `note` says why. `max_abs_diff`: the
    largest of all, of a logit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    file: ClassVar[str] = "invariance.json"

    rows: int
    batch: float
    order: float
    left: float | None
    max_abs_diff: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return all(times <= 1 for times in (self.batch, self.order, self.left or 0.0))

    @property
    def words(self) -> str:
        """As "alone and in a batch the logits differ by 310 times the tolerance"."""
        names = {"in a batch": self.batch, "in another order": self.order}
        names |= {"padded on the left": self.left or 0.0}
        broken = [f"{name} by {times:.3g}" for name, times in names.items() if not times <= 1]
        how = ", ".join(broken) or "by no more than 1"
        return f"{self.rows} rows' logits alone differ from those {how} times the tolerance"
