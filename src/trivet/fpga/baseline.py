"""Logistic regression on what the student is fed, where no language model takes part."""

from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Artifact
from trivet.evaluate.baseline import Labelling, Rows, labels, logistic_regression
from trivet.fpga.student import STUDENT
from trivet.plugins import ARTIFACTS
from trivet.tasks.classify import Classify

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class StudentBaseline(Labelling):
    name = "baseline-student"
    words = "logistic regression"
    task = Classify

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.tune is None and recipe.fpga.enabled

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (STUDENT,)

    def answer(self, run: "Run", rows: Rows) -> Any:
        from trivet.fpga.inputs import Inputs

        return fit(Inputs.read(run.path(STUDENT)), rows)


def fit(inputs: Any, rows: Rows) -> Any:
    """The answers to the test rows. Token ids are one-hot, all else has mean 0 and variance 1."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    train, test = (inputs.encode(rows[split]) for split in ("train", "test"))
    ids = train.dtype.kind == "i"
    first = OneHotEncoder(handle_unknown="ignore") if ids else StandardScaler()
    model = make_pipeline(first, logistic_regression(1.0))
    return model.fit(train.reshape(len(train), -1), labels(rows)).predict(
        test.reshape(len(test), -1)
    )


ARTIFACTS.add(StudentBaseline())
