"""MLflow's registered models. `champion` is the alias of the version to ship, `previous` the one it
replaced; only a run whose gates all held moves them, and one of the gates is the champion itself,
where both answered the same held-out rows (evaluate/parity.py).

A version is a logged model of its run, MLflow's own format, and holds the run's artifacts. On one
machine they are hard links of the run's folder; elsewhere they are uploaded, once.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from trivet import UserError
from trivet.evaluate.parity import Rival
from trivet.records.lineage import Registered
from trivet.records.parity import ParityTable
from trivet.records.score import HeldOut
from trivet.registry.runs import LINEAGE, parameters, stage_metrics

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

CHAMPION, PREVIOUS = "champion", "previous"
PROMOTED = "trivet.promoted"  # the last thing that a promotion writes


def is_registered(run: "Run", run_id: str) -> Registered | None:
    """The version that this run became, once its promotion came to its end."""
    version = _version(run, run_id)
    if version is None or PROMOTED not in version.tags:
        return None
    return Registered(name=version.name, version=str(version.version), alias=CHAMPION)


def rival(run: "Run", run_id: str) -> Rival | None:
    """The champion that this run would replace, and how it did row by row; None: there is none."""
    client, name = MlflowClient(), run.recipe.registered
    try:
        version = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None
    if version.run_id == run_id:
        return None
    held_out = None
    if any(file.path == HeldOut.file for file in client.list_artifacts(str(version.run_id))):
        with TemporaryDirectory() as folder:
            client.download_artifacts(str(version.run_id), HeldOut.file, folder)
            held_out = HeldOut.read(Path(folder))
    return Rival(name, str(version.version), held_out)


def promote(run: "Run", run_id: str, table: ParityTable) -> Registered:
    """Register the run's artifacts as a model version and make it the champion.

    Called again for the same run it changes nothing: `previous` stays what it was. After a kill it
    goes on where it was.
    """
    if known := is_registered(run, run_id):
        return known
    client, name = MlflowClient(), run.recipe.registered
    try:
        client.create_registered_model(name)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = _version(run, run_id) or _create_version(run, run_id, table)
    former = client.get_registered_model(name).aliases.get(CHAMPION)
    if former != version.version:
        if former:
            client.set_registered_model_alias(name, PREVIOUS, former)
        client.set_registered_model_alias(name, CHAMPION, version.version)
    client.set_model_version_tag(name, version.version, PROMOTED, "true")
    return Registered(name=name, version=str(version.version), alias=CHAMPION)


def _version(run: "Run", run_id: str) -> ModelVersion | None:
    name = run.recipe.registered
    versions = MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return versions[0] if versions else None


def _create_version(run: "Run", run_id: str, table: ParityTable) -> ModelVersion:
    client, name = MlflowClient(), run.recipe.registered
    model_id = _log_model(run, run_id, table).model_id
    version = client.create_model_version(
        name, f"models:/{model_id}", run_id, tags={LINEAGE: run.lineage}, model_id=model_id
    )
    listed = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: listed})  # for the run's page
    return version


def _log_model(run: "Run", run_id: str, table: ParityTable) -> LoggedModel:
    """The run's logged model, whole; what a killed promotion left half-written goes."""
    client, name = MlflowClient(), run.recipe.registered
    experiment = client.get_run(run_id).info.experiment_id
    for known in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if known.status == LoggedModelStatus.READY:
            return known
        if (folder := _local(known.artifact_location)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
        client.delete_logged_model(known.model_id)
    logged = client.create_logged_model(
        experiment,
        name,
        run_id,
        tags={LINEAGE: run.lineage, "trivet.recipe": run.recipe.name},
        params=parameters(run),
        model_type=run.recipe.data.task,
    )
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.log_batch(run_id, metrics=stage_metrics(table, run_id=run_id, model_id=logged.model_id))
    _write_files(run, run_id, logged)
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _write_files(run: "Run", run_id: str, logged: LoggedModel) -> None:
    from trivet.registry import champion

    location = logged.artifact_location
    model = Model(location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
    if (folder := _local(location)) is not None:
        champion.write(run, model, folder)
        return
    with TemporaryDirectory(dir=run.folder, prefix=".model") as part:
        champion.write(run, model, Path(part) / "model")
        MlflowClient().log_model_artifacts(logged.model_id, str(Path(part) / "model"))


def _local(location: str) -> Path | None:
    """A place for artifacts as a folder of this machine, or None where it is not one."""
    if urlsplit(location).scheme in ("", "file"):
        return Path(local_file_uri_to_path(location))
    return None


def find(model: str) -> ModelVersion:
    """The version that `name`, `name@alias` or `name/version` means; the champion by default.

    Raises UserError when there is no such model.
    """
    client = MlflowClient()
    name, at, alias = model.partition("@")
    name, slash, number = name.partition("/")
    try:
        if not slash:
            number = client.get_model_version_by_alias(name, alias if at else CHAMPION).version
        return client.get_model_version(name, number)
    except MlflowException:
        known = ", ".join(registered()) or "none yet"
        raise UserError(
            f"No registered model '{model}'. Registered: {known}. Try `trivet why NAME`."
        ) from None


def registered() -> list[str]:
    """The names of all registered models."""
    return [model.name for model in MlflowClient().search_registered_models()]


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
    """The student of the registered `name/version` as `folder`, whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".student") as part:
        _download(find(model), "student", Path(part)).rename(folder)


def _download(version: ModelVersion, path: str, folder: Path) -> Path:
    uri = f"models:/{version.name}/{version.version}/{path}"
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
