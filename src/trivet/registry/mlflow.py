"""MLflow: runs, models, aliases, and the chain from a model back to its rows.

Each lineage has one MLflow run: a flow that was killed goes on in it, and one that found nothing
changed does not open another. `champion` is the alias of the version to ship, `previous` the one
it replaced; only a run whose gates all held moves them.
"""

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ... import UserError
from .run import Run

logging.getLogger("mlflow").setLevel(logging.WARNING)
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

CHAMPION, PREVIOUS = "champion", "previous"


def open_run(run: Run, flow_run_id: str) -> str:
    """The MLflow run of this lineage, opened if it is not there; returns its id."""
    client = MlflowClient()
    experiment = mlflow.set_experiment(run.recipe.track.experiment)
    found = client.search_runs(
        [experiment.experiment_id], f"tags.`trivet.lineage` = '{run.lineage}'", max_results=1
    )
    if found:
        return found[0].info.run_id
    tags = {
        "trivet.lineage": run.lineage,
        "trivet.recipe": run.recipe.name,
        "dvc.md5": run.data.md5,
        "dvc.source_md5": run.data.source_md5,
        "prefect.flow_run_id": flow_run_id,
        **git(run.root),
    }
    run_id = client.create_run(experiment.experiment_id, tags=tags, run_name=run.name).info.run_id
    params = [Param(k, str(v)[:6000]) for k, v in _flat(run.recipe.model_dump())]
    client.log_batch(run_id, params=params)
    entity = mlflow.entities.Dataset(
        name=run.recipe.data.source,
        digest=run.data.md5,
        source_type="dvc",
        source=json.dumps({"data.dvc": run.data.md5, "folder": run.data.folder.name}),
    )
    client.log_inputs(run_id, datasets=[mlflow.entities.DatasetInput(entity, [])])
    return run_id


def git(root: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` of the clone; empty outside one."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True
        ).stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return {
        "git.commit": commit,
        "git.dirty": str(bool(ask("status", "--porcelain", "-uno"))).lower(),
    }


def log_point(run_id: str, point: dict[str, Any]) -> None:
    """One point of the loss curve, as it is made."""
    now = int(time.time() * 1000)
    names = ("train_loss", "valid_loss", "learning_rate")
    metrics = [Metric(n, point[n], now, point["step"]) for n in names if point[n] is not None]
    MlflowClient().log_batch(run_id, metrics=metrics)


def log_curve(run_id: str, curve: list[dict[str, Any]]) -> None:
    """The whole curve, where another run's cached adapter brought it."""
    if "train_loss" not in MlflowClient().get_run(run_id).data.metrics:
        for point in curve:
            log_point(run_id, point)


def log_results(run_id: str, run: Run, parity: dict[str, Any]) -> None:
    """Every hop's figures as metrics, and the verdict as a tag."""
    client, now = MlflowClient(), int(time.time() * 1000)
    metrics = [
        Metric(f"{hop['backend']}.{name}", float(hop[name]), now, 0)
        for hop in parity["hops"]
        for name in ("value", "agreement", "max_abs_diff", "ms_per_row")
        if hop[name] is not None
    ]
    client.log_batch(
        run_id, metrics=metrics, tags=[RunTag("promoted", str(parity["promoted"]).lower())]
    )


def log_artifacts(run_id: str, folder: Path, only: tuple[str, ...] = ()) -> None:
    """What lies in the run's folder, or `only` the files named, to MLflow."""
    client = MlflowClient()
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or (only and entry.name not in only):
            continue
        if entry.is_dir():
            client.log_artifacts(run_id, str(entry), entry.name)
        else:
            client.log_artifact(run_id, str(entry))
    client.set_terminated(run_id)


def promote(run: Run, run_id: str) -> dict[str, str]:
    """Register the run's artifacts as a model version and make it the champion.

    Called again for the same run it changes nothing: `previous` stays what it was.
    """
    client, name = MlflowClient(), run.recipe.registered
    try:
        client.create_registered_model(name)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    version = (
        versions[0]
        if versions
        else client.create_model_version(
            name,
            client.get_run(run_id).info.artifact_uri,
            run_id,
            tags={"trivet.lineage": run.lineage},
        )
    )
    aliases = client.get_registered_model(name).aliases
    former = aliases.get(CHAMPION)
    if former != version.version:
        if former:
            client.set_registered_model_alias(name, PREVIOUS, former)
        client.set_registered_model_alias(name, CHAMPION, version.version)
    return {"name": name, "version": str(version.version), "alias": CHAMPION}


def url(run_id: str) -> str:
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    return f"{mlflow.get_tracking_uri()}/#/experiments/{experiment}/runs/{run_id}"


def why(model: str) -> dict[str, Any]:
    """The chain behind `name`, `name@alias` or `name/version`; the champion when neither is said.

    Raises UserError when there is no such model.
    """
    client, version = MlflowClient(), find(model)
    name, found = version.name, client.get_run(str(version.run_id))
    tags, data = found.data.tags, found.inputs.dataset_inputs if found.inputs else []
    return {
        "model": name,
        "version": str(version.version),
        "aliases": list(client.get_model_version(name, version.version).aliases),
        "run": found.info.run_name,
        "lineage": tags.get("trivet.lineage"),
        "recipe": tags.get("trivet.recipe"),
        "data": data[0].dataset.name if data else None,
        "dvc_md5": tags.get("dvc.md5"),
        "dvc_source_md5": tags.get("dvc.source_md5"),
        "git_commit": tags.get("git.commit"),
        "git_dirty": tags.get("git.dirty"),
        "flow_run_id": tags.get("prefect.flow_run_id"),
        "mlflow_run_id": found.info.run_id,
        "mlflow_url": url(found.info.run_id),
        "parameters": dict(sorted(found.data.params.items())),
    }


def find(model: str) -> ModelVersion:
    """The version that `model` names, as in `why`."""
    client = MlflowClient()
    name, at, alias = model.partition("@")
    name, slash, number = name.partition("/")
    try:
        if slash:
            return client.get_model_version(name, number)
        return client.get_model_version_by_alias(name, alias if at else CHAMPION)
    except MlflowException:
        known = ", ".join(m.name for m in client.search_registered_models()) or "none yet"
        raise UserError(
            f"No registered model '{model}'. Registered: {known}. Try `trivet why NAME`."
        ) from None


def chip_recipe(model: str) -> dict[str, Any]:
    """A registered model's recipe without its language model: its student alone, as it is.

    Raises UserError when there is no such model, or it has no student.
    """
    version = find(model)
    with TemporaryDirectory() as folder:
        file = _download(version, "recipe.json", Path(folder))
        recipe: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if not recipe["fpga"]["enabled"]:
        raise UserError(
            f"'{model}' has no student for a chip: its recipe had fpga.enabled = false. Run it "
            "again with fpga.enabled=true."
        )
    recipe["fpga"]["student"] = f"{version.name}/{version.version}"
    track = {"experiment": recipe["track"]["experiment"]}
    return recipe | {"name": f"{version.name}-chip", "tune": None, "track": track}


def student(model: str, folder: Path) -> None:
    """The student of the registered `name/version` into `folder`."""
    with TemporaryDirectory(dir=folder) as part:
        for file in _download(find(model), "student", Path(part)).iterdir():
            file.rename(folder / file.name)


def _download(version: ModelVersion, artifact: str, folder: Path) -> Path:
    return Path(
        mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path=artifact, dst_path=str(folder)
        )
    )


def registered() -> list[str]:
    return [m.name for m in MlflowClient().search_registered_models()]


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
