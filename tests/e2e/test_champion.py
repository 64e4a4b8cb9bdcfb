"""A run's folder as an MLflow model answers as `trivet predict` does, whatever the task.

Classification of texts is in tests/servers/test_registry.py.

Run: .venv/bin/pytest tests/e2e/test_champion.py
"""

import json
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.models import Model
from small_run import ROWS, build, small_run

from trivet import UserError
from trivet.artifacts.run import Run
from trivet.evaluate.predict import predict
from trivet.export.merged import MERGED
from trivet.fpga.student import STUDENT
from trivet.registry import champion

QUESTIONS = {
    "tag": ["light hall on", "kitchen"],
    "generate": ["What is your name?"],
    "numbers": ["[-3.5, 0]", "[3.5, 1.75]"],
}


@pytest.fixture(scope="module", params=list(QUESTIONS))
def case(
    request: pytest.FixtureRequest, small_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Run, Path]:
    """What the rows are, a run on them, and its MLflow model."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "numbers":
        fpga = {"enabled": True, "hidden": [3], "epochs": 1}
        run = build(small_run(root, small_base, "numbers", tune={}, fpga=fpga), STUDENT)
    else:
        run = build(small_run(root, small_base, request.param), MERGED)
    folder = root / "model"
    champion.write(run, Model(), folder)
    return request.param, run, folder


def test_it_answers_as_predict_does(case: tuple[str, Run, Path]) -> None:
    name, run, folder = case
    model = mlflow.pyfunc.load_model(str(folder))
    column = "x" if name == "numbers" else "text"
    cells = [json.loads(q) if column == "x" else q for q in QUESTIONS[name]]
    said = model.predict(pd.DataFrame({column: cells})).to_dict("records")
    for question, cell in zip(QUESTIONS[name], said, strict=True):
        answer, backend = predict(run.folder, question)
        assert backend.name == model.model_config["backend"]
        assert answer.model_dump(mode="json", exclude={"version"}).items() <= cell.items()
        if "label" in cell:
            assert cell["probability"] == cell["best"][0]["probability"]


def test_the_description_is_whole_and_nothing_is_pickled(case: tuple[str, Run, Path]) -> None:
    name, run, folder = case
    model = Model.load(folder)
    (column,) = model.get_input_schema().input_names()
    assert column == ("x" if name == "numbers" else "text")
    outputs = {"tag": ["tags"], "generate": ["reply"]}.get(name, ["label", "probability", "best"])
    assert model.get_output_schema().input_names() == outputs
    example = model.load_input_example(str(folder))
    first = {"numbers": ROWS["numbers"][0].get("x"), "generate": "What is your name?"}
    assert example[column][0] == first.get(name, ROWS[name][0].get("text"))
    assert model.flavors["python_function"]["loader_module"] == "trivet.registry.champion"
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert not [f for f in files if f.suffix in (".pkl", ".pickle", ".pt", ".bin")]
    text = (folder / "MLmodel").read_text()
    assert str(run.root) not in text and "cloudpickle" not in text
    for file in (run.folder / model.flavors["python_function"]["config"]["backend"]).glob("*"):
        assert file.samefile(folder / file.relative_to(run.folder))


def test_another_backend_answers_where_it_is_asked_for(case: tuple[str, Run, Path]) -> None:
    name, run, folder = case
    if name == "generate":  # the same code, and slow
        return
    other = "student-float" if name == "numbers" else "merged"
    model = mlflow.pyfunc.load_model(str(folder), model_config={"backend": other})
    question = QUESTIONS[name][0]
    frame = pd.DataFrame(
        {"x": [json.loads(question)]} if name == "numbers" else {"text": [question]}
    )
    (cell,) = model.predict(frame).to_dict("records")
    answer, _ = predict(run.folder, question, other)
    assert answer.model_dump(mode="json", exclude={"version"}).items() <= cell.items()


def test_what_cannot_be_answered_is_said(case: tuple[str, Run, Path]) -> None:
    name, _, folder = case
    model = champion.Champion(folder)
    with pytest.raises(UserError, match="The columns are words: give `text`, or `x`"):
        model.predict(pd.DataFrame({"words": ["on"]}))
    if name != "numbers":
        with pytest.raises(UserError, match="Row 1: column 'text' is empty"):
            model.predict(pd.DataFrame({"text": ["on", " "]}))
    with pytest.raises(UserError, match="'gpu' is not one that"):
        champion.Champion(folder, "gpu")
