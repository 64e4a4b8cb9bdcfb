"""MLflow's runs. Each lineage has one: a flow that was killed goes on in it, and one that found
nothing changed does not open another.

Here are parameters, metrics and the run folder's small files. The artifacts themselves go to MLflow
once, as the model of a run whose gates all held (models.py).
"""

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from trivet.config.recipe import dotted
from trivet.records.parity import ParityTable
from trivet.records.score import Curve, Point

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

LINEAGE = "trivet.lineage"


def open_run(run: "Run", flow_run_id: str) -> str:
    """The MLflow run of this lineage, opened if it is not there; returns its id."""
    client = MlflowClient()
    experiment = mlflow.set_experiment(run.recipe.track.experiment).experiment_id
    known = client.search_runs([experiment], f"tags.`{LINEAGE}` = '{run.lineage}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    tags = {
        LINEAGE: run.lineage,
        "trivet.recipe": run.recipe.name,
        "dvc.md5": run.data.md5,
        "dvc.source_md5": run.data.source_md5,
        "prefect.flow_run_id": flow_run_id,
        **git(run.root),
    }
    run_id = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
    client.log_batch(run_id, params=[Param(k, v) for k, v in parameters(run).items()])
    entity = mlflow.entities.Dataset(
        name=run.recipe.data.source,
        digest=run.data.md5,
        source_type="dvc",
        source=json.dumps({"data.dvc": run.data.md5, "folder": run.data.folder.name}),
    )
    client.log_inputs(run_id, datasets=[mlflow.entities.DatasetInput(entity, [])])
    return str(run_id)


def parameters(run: "Run") -> dict[str, str]:
    """The recipe with dotted keys; MLflow takes 6,000 characters a value."""
    return {key: str(value)[:6000] for key, value in dotted(run.recipe.model_dump())}


def git(root: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` of the clone; an empty commit outside one."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True
        ).stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return {
        "git.commit": commit,
        "git.dirty": str(bool(ask("status", "--porcelain", "-uno"))).lower(),
    }


def log_point(run_id: str, point: Point) -> None:
    """One point of the loss curve, as it is made."""
    now, values = _now(), point.model_dump(include={"train_loss", "valid_loss", "learning_rate"})
    metrics = [Metric(k, v, now, point.step) for k, v in values.items() if v is not None]
    MlflowClient().log_batch(run_id, metrics=metrics)


def log_curve(run_id: str, curve: Curve | None) -> None:
    """The whole curve, where another run's cached adapter brought it."""
    if curve and "train_loss" not in MlflowClient().get_run(run_id).data.metrics:
        for point in curve.points:
            log_point(run_id, point)


def log_results(run_id: str, table: ParityTable) -> None:
    """Every stage's figures as metrics, and the verdict as a tag."""
    tags = [RunTag("promoted", str(table.promoted).lower())]
    MlflowClient().log_batch(run_id, metrics=stage_metrics(table), tags=tags)


def stage_metrics(table: ParityTable, **of: str) -> list[Metric]:
    """`<backend>.<figure>` for every stage; `of`: fields of the metric beside."""
    now, figures = _now(), {"value", "low", "high", "agreement", "max_abs_diff", "ms_per_row"}
    return [
        Metric(f"{stage.backend}.{name}", float(value), now, 0, **of)
        for stage in table.stages
        for name, value in stage.model_dump(include=figures).items()
        if value is not None
    ]


def log_folder(run_id: str, folder: Path, only: tuple[str, ...] = ()) -> None:
    """The files that lie in the run's folder, or `only` those named; its sub-folders are artifacts.
    The MLflow run has then ended.
    """
    client = MlflowClient()
    for file in sorted(folder.iterdir()):
        hidden = file.name.startswith(".") or not file.is_file()
        if not hidden and (not only or file.name in only):
            client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)


def url(run_id: str) -> str:
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    return f"{mlflow.get_tracking_uri()}/#/experiments/{experiment}/runs/{run_id}"


def _now() -> int:
    """Milliseconds since 1970, MLflow's time."""
    return int(time.time() * 1000)
