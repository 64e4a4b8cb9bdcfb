"""Runs and models in a real MLflow server, artifacts in its folder and uploaded over HTTP.

The tests of this file tell one story and run in order.
Run: .venv/bin/pytest tests/servers/test_registry.py
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import free_port
from mlflow.entities import LoggedModelStatus
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from small_run import build, small_run, table

from trivet import UserError, registry
from trivet.artifacts.run import Run
from trivet.evaluate import parity
from trivet.evaluate.predict import answer, choose, open_session
from trivet.evaluate.score import Scored
from trivet.export.onnx import ONNX
from trivet.flows.servers import Servers
from trivet.fpga.student import STUDENT
from trivet.plugins import BACKENDS
from trivet.records.score import Curve, Point, Score
from trivet.tasks.tally import Tally

pytestmark = pytest.mark.servers

CHAMPION = "models:/few-classify@champion"
QUESTIONS = ["turn on the hall light", "attic off", "please, the kitchen light"]
FRAME = pd.DataFrame({"text": QUESTIONS})
FPGA = {"enabled": True, "bins": 16, "hidden": [4], "epochs": 1}


@pytest.fixture(scope="module")
def run(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("registry")
    run = small_run(root, small_base, "classify", fpga=FPGA)
    return build(run, ONNX, STUDENT)


@pytest.fixture(autouse=True)
def local(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.mlflow_url)


def expected(run: Run, backend: str | None = None) -> list[dict[str, Any]]:
    """What `trivet predict` says to each question."""
    session, card = open_session(run.folder, choose(run.folder, backend))
    return [answer(session, card, question).cells() for question in QUESTIONS]


def promoted(run: Run) -> str:
    """The MLflow run's id."""
    run_id = registry.open_run(run, "a flow run")
    registry.log_folder(run_id, run.folder)
    registry.promote(run, run_id, table(run))
    return run_id


@contextmanager
def http_server(command: list[str], health: str, cwd: Path) -> Iterator[None]:
    tools = Path(sys.executable).parent  # MLflow calls uvicorn by name: an activated environment
    env = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    words = [str(tools / "mlflow"), *command]
    with open(cwd / "server.log", "w") as log:
        process = subprocess.Popen(
            words, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        limit = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(health, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None and time.monotonic() < limit, (
                    cwd / "server.log"
                ).read_text()
                time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_a_run_goes_on_in_its_own_mlflow_run(run: Run) -> None:
    run_id = registry.open_run(run, "first")
    assert registry.open_run(run, "second") == run_id
    point = Point(step=1, epoch=1, train_loss=2.0, valid_loss=None, learning_rate=0.5)
    registry.log_curve(run_id, Curve(points=[point, point.model_copy(update={"step": 2})]))
    registry.log_curve(run_id, Curve(points=[point.model_copy(update={"step": 3})]))
    registry.log_curve(run_id, None)
    history = MlflowClient().get_metric_history(run_id, "train_loss")
    assert [metric.step for metric in history] == [1, 2]
    assert registry.is_registered(run, run_id) is None


def test_a_killed_promotion_is_made_whole(run: Run) -> None:
    """What it left: a logged model that is not ready, with half its files."""
    run_id = registry.open_run(run, "")
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    half = client.create_logged_model(experiment, "few-classify", run_id)
    (folder := Path(local_file_uri_to_path(half.artifact_location))).mkdir(parents=True)
    (folder / "MLmodel").write_text("half")

    registry.log_folder(run_id, run.folder)
    model = registry.promote(run, run_id, table(run))
    assert (model.name, model.version, model.alias) == ("few-classify", "1", "champion")
    (logged,) = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert logged.status == LoggedModelStatus.READY and logged.model_id != half.model_id
    assert not folder.exists()


def test_the_run_shows_a_logged_model(run: Run) -> None:
    run_id = registry.open_run(run, "")
    client = MlflowClient()
    version = client.get_model_version_by_alias("few-classify", "champion")
    output = client.get_run(run_id).outputs.model_outputs[-1]
    assert version.source == f"models:/{output.model_id}" and version.run_id == run_id
    logged = client.get_logged_model(output.model_id)
    assert logged.tags["trivet.lineage"] == run.lineage == version.tags["trivet.lineage"]
    assert logged.tags["trivet.recipe"] == "few-classify"
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [
        {"name": "few-classify", "version": version.version}
    ]
    assert logged.params["tune.rank"] == "4"


def test_any_client_loads_it_and_it_answers_as_predict_does(run: Run) -> None:
    model = mlflow.pyfunc.load_model(CHAMPION)
    assert model.predict(FRAME).to_dict("records") == expected(run)
    int8 = mlflow.pyfunc.load_model(CHAMPION, model_config={"backend": "onnx-int8"})
    assert int8.predict(FRAME).to_dict("records") == expected(run, "onnx-int8")
    assert expected(run) != expected(run, "onnx-int8")


def test_stock_flavours_load_from_the_same_model(run: Run) -> None:
    pipeline = mlflow.transformers.load_model(CHAMPION)
    merged = [(a["label"], a["probability"]) for a in expected(run, "merged")]
    said = [(a["label"], a["score"]) for a in pipeline(QUESTIONS)]
    assert [label for label, _ in said] == [label for label, _ in merged]
    # the same logits; the pipeline's softmax is float32, ours float64
    assert np.allclose([p for _, p in said], [p for _, p in merged], rtol=1e-6, atol=0)

    graph = mlflow.onnx.load_model(CHAMPION).SerializeToString()
    opened = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    session, card = open_session(run.folder, choose(run.folder, "onnx-int8"))
    for text in QUESTIONS:
        ids = np.array([session.tokenizer(card.prompt.replace("{text}", text))["input_ids"]])
        (logits,) = opened.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert np.array_equal(logits, session.answer([{"text": text}])[0])


def test_mlflow_serves_it_over_http(run: Run, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    words = ["models", "serve", "-m", CHAMPION, "--env-manager", "local", "-h", "127.0.0.1"]
    with http_server([*words, "-p", str(port)], f"{url}/ping", tmp_path):
        body = json.dumps({"dataframe_split": FRAME.to_dict("split")}).encode()
        request = urllib.request.Request(
            f"{url}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            assert json.load(reply)["predictions"] == expected(run)


def test_no_byte_lies_twice(run: Run) -> None:
    """The model's artifacts are the run's own files, and the run's page holds small files alone."""
    version = registry.find("few-classify")
    logged = MlflowClient().get_logged_model(version.source.removeprefix("models:/"))
    folder = Path(local_file_uri_to_path(logged.artifact_location))
    for artifact in ("adapter", "merged", "onnx", "student"):
        files = [f for f in (run.folder / artifact).rglob("*") if f.is_file()]
        assert files
        for file in files:
            assert file.samefile(folder / file.relative_to(run.folder))
            assert file.samefile(run.store.folder / run.slot(_named(run, artifact)) / file.name)
    own = [f for f in folder.rglob("*") if f.is_file() and f.stat().st_nlink == 1]
    assert sum(f.stat().st_size for f in own) < 20_000
    listed = MlflowClient().list_artifacts(version.run_id)
    assert [(f.path, f.is_dir) for f in listed] == [("recipe.json", False)]


def _named(run: Run, name: str) -> Any:
    return next(a for a in run.artifacts() if a.name == name)


def test_aliases_move_once(run: Run, small_base: Path) -> None:
    other = small_run(run.root, small_base, "classify", fpga=FPGA, gates={"fixed_points": 50.0})
    assert other.lineage != run.lineage and other.key(ONNX) == run.key(ONNX)
    build(other, ONNX, STUDENT)
    promoted(other)
    for again in (other, run):  # the first was promoted before, and is not again
        run_id = promoted(again)
        assert registry.is_registered(again, run_id)
        aliases = MlflowClient().get_registered_model("few-classify").aliases
        assert aliases == {"champion": "2", "previous": "1"}
    assert registry.registered() == ["few-classify"]


def test_the_champion_is_known_row_by_row(
    small_base: Path, tmp_path: Path, servers: Servers
) -> None:
    """A challenger that has none of the rows, against a champion that had them all."""
    track = {"model": "contest"}
    runs = [
        build(small_run(tmp_path, small_base, "numbers", tune={}, fpga=fpga, track=track), STUDENT)
        for fpga in (FPGA, FPGA | {"seed": 1})
    ]
    first, second = runs
    assert registry.rival(first, registry.open_run(first, "")) is None  # nobody is champion yet
    backend = BACKENDS["student-float"]
    rows = [parity.Row(backend, Score.read(f), f) for f in (r.build(Scored(backend)) for r in runs)]
    for row, right in zip(rows, (np.ones(8), np.zeros(8)), strict=True):
        Tally.right(right).save(row.folder)
    rows[0].held_out().write(first.folder)
    own = promoted(first)
    assert registry.rival(first, own) is None  # it is the champion itself

    rival = registry.rival(second, registry.open_run(second, ""))
    assert rival and (rival.model, rival.version) == ("contest", "1")
    assert rival.held_out == rows[0].held_out()
    result = parity.compare(second.recipe, second.name, rows[1:], [], {}, rival)
    assert result.champion and result.champion.difference
    assert result.champion.difference.value == -1 and not result.promoted
    assert "not surely worse than contest version 1" in result.refused[0].gate
    other = rows[1].score.model_copy(update={"held_out": "other rows"})
    strange = [parity.Row(backend, other, rows[1].folder)]
    result = parity.compare(second.recipe, second.name, strange, [], {}, rival)
    assert result.promoted and "other held-out rows" in result.standing[0]
    promoted(second)  # it wrote nothing down
    third = build(
        small_run(tmp_path, small_base, "numbers", tune={}, fpga=FPGA | {"seed": 2}, track=track),
        STUDENT,
    )
    assert registry.rival(third, registry.open_run(third, "")) == parity.Rival("contest", "2", None)


def test_the_chain_back_from_a_model(run: Run) -> None:
    chain = registry.why("few-classify@previous")
    assert (chain.model, chain.version, chain.aliases) == ("few-classify", "1", ["previous"])
    assert (chain.run, chain.lineage, chain.recipe) == (run.name, run.lineage, "few-classify")
    assert (chain.data, chain.dvc_md5) == ("few", run.data.md5)
    assert chain.flow_run_id == "first" and chain.parameters["fpga.bins"] == "16"
    assert registry.why("few-classify/2").run == registry.why("few-classify").run != run.name
    with pytest.raises(UserError, match="No registered model .nobody.. Registered: .*few-classify"):
        registry.why("nobody")


def test_the_chip_takes_a_registered_student(run: Run, tmp_path: Path) -> None:
    recipe = registry.chip_recipe("few-classify@previous")
    assert recipe["name"] == "few-classify-chip" and recipe["tune"] is None
    assert recipe["fpga"]["student"] == "few-classify/1" and recipe["fpga"]["bins"] == 16
    registry.student(recipe["fpga"]["student"], tmp_path / "registered" / "student")
    fetched = {f.name: f.read_bytes() for f in (tmp_path / "registered" / "student").iterdir()}
    assert fetched == {f.name: f.read_bytes() for f in (run.folder / "student").iterdir()}
    assert [f.name for f in (tmp_path / "registered").iterdir()] == ["student"]


def test_a_server_elsewhere_gets_everything_once(
    small_base: Path, tmp_path: Path, servers: Servers
) -> None:
    """Its artifacts go over HTTP, as a team's server has it."""
    mlflow.create_experiment("elsewhere", artifact_location="mlflow-artifacts:/elsewhere")
    track = {"experiment": "elsewhere"}
    run = small_run(tmp_path, small_base, "numbers", tune={}, fpga=FPGA, track=track)
    run_id = promoted(build(run, STUDENT))
    assert MlflowClient().get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    version = registry.find("few-numbers")
    logged = MlflowClient().get_logged_model(version.source.removeprefix("models:/"))
    listed = mlflow.artifacts.list_artifacts(f"{logged.artifact_location}/student")
    paths = [file.path for file in listed]
    assert sorted(paths) == sorted(
        f"student/{file.name}" for file in (run.folder / "student").iterdir()
    )
    assert [f.path for f in MlflowClient().list_artifacts(run_id)] == ["recipe.json"]
    model = mlflow.pyfunc.load_model("models:/few-numbers@champion")
    (cell,) = model.predict(pd.DataFrame({"x": [[3.5, 1.75]]})).to_dict("records")
    session, card = open_session(run.folder, choose(run.folder, "student-fixed"))
    assert cell == answer(session, card, "[3.5, 1.75]").cells()
    assert not list(run.folder.glob(".model*"))
