"""A run as an MLflow model: any MLflow client loads it, and it answers as `trivet predict` does.

The folder holds the run's artifacts by their names and MLflow's own description; nothing in it is
pickled, for the loader is this module. `mlflow.pyfunc.load_model(uri, model_config={"backend":
"onnx-int8"})` answers by another backend than the run's preferred one. Where an artifact is a
format that MLflow knows, the same folder has that flavour too (flavors.py).

    data frame in       column `text`, or `x` (lists of numbers) where the run answers numbers
    data frame out      the fields of the task's answer, one row each

Not covered: an environment made from nothing, such as a container that MLflow builds. Trivet is in
no package index, so a model is loaded where Trivet is installed (`--env-manager local`).
"""

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import Model, infer_signature
from packaging.version import Version

from trivet import UserError
from trivet.artifacts.store import link_file
from trivet.evaluate.predict import answer, choose, open_session
from trivet.plugins import TASKS
from trivet.registry import flavors

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

EXAMPLES = 3
PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas", "peft", "torch", "transformers")


class Champion:
    """An opened backend of a run or of a registered model, in MLflow's form. It answers row by row,
    as `trivet predict` does, so that no answer depends on the rows beside it.
    """

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        self.session, self.card = open_session(folder, choose(folder, backend))

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises UserError where there is neither column, or a row is empty."""
        return pd.DataFrame([self._cells(text) for text in _texts(frame)])

    def _cells(self, text: str) -> dict[str, Any]:
        return answer(self.session, self.card, text).cells()


def _load_pyfunc(folder: str, model_config: dict[str, Any] | None = None) -> Champion:
    """What MLflow calls."""
    return Champion(Path(folder), (model_config or {}).get("backend"))


def write(run: "Run", model: Model, folder: Path) -> None:
    """The run as the MLflow model `model` in `folder`, an absent or empty one."""
    backend = choose(run.folder, None)
    example = _example(run)
    answers = Champion(run.folder, backend.name).predict(example.head(1))
    signature = infer_signature(example, answers)
    flavors.add(model, run.folder)
    mlflow.pyfunc.save_model(
        folder,
        loader_module=__name__,
        mlflow_model=model,
        model_config={"backend": backend.name},
        signature=signature,
        input_example=example,
        pip_requirements=_requirements(),
    )
    for artifact in run.artifacts():
        if (source := run.folder / artifact.name).is_dir():
            shutil.copytree(source, folder / artifact.name, copy_function=link_file)
    link_file(run.folder / "recipe.json", folder / "recipe.json")
    flavors.link_components(run.folder, folder, link_file)
    model.model_size_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    model.save(folder / "MLmodel")


def _example(run: "Run") -> pd.DataFrame:
    """The first held-out rows, as questions."""
    from trivet.data import dataset

    task = TASKS[run.recipe.data.task]
    rows = dataset.read(run.recipe.data, run.data.folder)["test"]
    if "x" in rows[0]:
        return pd.DataFrame({"x": [np.array(r["x"], float).tolist() for r in rows[:EXAMPLES]]})
    texts = (task.text(row) for row in rows)
    return pd.DataFrame({"text": [text for text in texts if text.strip()][:EXAMPLES]})


def _texts(frame: pd.DataFrame) -> list[str]:
    """Each row as a person would type it."""
    if "x" in frame:
        return [json.dumps(_numbers(row)) for row in frame["x"]]
    if "text" not in frame:
        columns = ", ".join(map(str, frame.columns)) or "none"
        raise UserError(
            f"The columns are {columns}: give `text`, or `x` with a list of numbers in each row."
        )
    for number, text in enumerate(frame["text"]):
        if not str(text).strip():
            raise UserError(f"Row {number}: column 'text' is empty; give a sentence to answer.")
    return [str(text) for text in frame["text"]]


def _numbers(row: Any) -> Any:
    """MLflow hands over nested arrays of objects; JSON takes lists."""
    return [_numbers(part) for part in row] if np.ndim(row) else float(row)


def _requirements() -> list[str]:
    """What answers, in the versions that it was proven with; a build's own suffix is left out."""
    pins = []
    for name in PACKAGES:
        try:
            pins.append(f"{name}=={Version(version(name)).public}")
        except PackageNotFoundError:  # an extra that this machine has no need of
            continue
    return pins
