"""fpga.json of a student's own folder: how good it is, and what its fixed-point types hold.

Not here: what became of it (chip.py), so that a new word about a chip trains no student again.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from trivet.records.record import Record


class Layer(BaseModel):
    """A layer's types as words ("" for one it lacks), the least and greatest value before rounding
    and how many of the `values` saturated, over training and test rows; `test_…`: over the latter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: str
    weight: str
    bias: str
    output: str
    range: tuple[float, float]
    saturated: int
    values: int
    test_saturated: int
    test_values: int


class StudentFacts(Record):
    """`inputs`: the kind, and `bins` of counts. A `…_value` is the
    share of right answers: of the float student on the test rows, distilled and of one trained on
    the hard labels alone (None: there is no teacher), and of the fixed one on the validation rows.
    `labelled_by_teacher`: rows.
    """

    file: ClassVar[str] = "fpga.json"

    inputs: str
    bins: int
    parameters: int
    labelled_by_teacher: int
    hard_label_value: float | None
    distilled_value: float
    valid_value: float
    layers: list[Layer]
