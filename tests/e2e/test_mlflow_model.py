"""A promoted run is an MLflow model: any client that loads it answers as the product does."""

import json

import mlflow
import pandas as pd
import pytest
from product import Ran, Trivet


def test_a_client_answers_as_predict_does(
    mine_run: Ran, trivet: Trivet, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "turn on the hall light"
    said = json.loads(trivet("predict", mine_run.name, text, "--json").stdout)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers["MLFLOW_TRACKING_URI"])
    version = mine_run.json("lineage.json")["registered"]["version"]
    champion = mlflow.pyfunc.load_model(f"models:/mine/{version}")
    (answer,) = champion.predict(pd.DataFrame({"text": [text]})).to_dict("records")
    assert answer["label"] == said["label"] == "on"
    assert answer["probability"] == said["best"][0]["probability"]
