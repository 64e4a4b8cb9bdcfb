"""The champion of a run is an MLflow model: whoever loads it gets the product's answers."""

import json

import mlflow
import pandas as pd
import pytest
from conftest import Ran, Trivet


def test_a_client_answers_as_predict_does(
    mine_run: Ran, trivet: Trivet, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "please turn on the hall light"
    said = json.loads(trivet("predict", mine_run.name, text, "--json").stdout)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers["MLFLOW_TRACKING_URI"])
    champion = mlflow.pyfunc.load_model(
        f"models:/mine/{mine_run.json('lineage.json')['registered']['version']}"
    )
    (answer,) = champion.predict(pd.DataFrame({"text": [text]})).to_dict("records")
    assert answer["label"] == said["label"] == "on"
    assert answer["probability"] == said["best"][0]["probability"]
