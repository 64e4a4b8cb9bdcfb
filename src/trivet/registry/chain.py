"""The chain from a registered model back to its rows, its recipe and its commit."""

from mlflow.tracking import MlflowClient
from pydantic import BaseModel, ConfigDict

from trivet.registry.models import find
from trivet.registry.runs import LINEAGE, url


class Chain(BaseModel):
    """`version`: the model's. `data`: the source's name. `parameters`: the recipe, dotted keys.
    What MLflow's run does not say is None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str
    aliases: list[str]
    run: str
    lineage: str | None
    recipe: str | None
    data: str | None
    dvc_md5: str | None
    dvc_source_md5: str | None
    git_commit: str | None
    git_dirty: str | None
    flow_run_id: str | None
    mlflow_run_id: str
    mlflow_url: str
    parameters: dict[str, str]


def why(model: str) -> Chain:
    """The chain behind `name`, `name@alias` or `name/version`; the champion when neither is said.

    Raises UserError when there is no such model.
    """
    version = find(model)
    run = MlflowClient().get_run(str(version.run_id))
    tags, inputs = run.data.tags, run.inputs.dataset_inputs if run.inputs else []
    return Chain(
        model=version.name,
        version=str(version.version),
        aliases=list(version.aliases),
        run=run.info.run_name,
        lineage=tags.get(LINEAGE),
        recipe=tags.get("trivet.recipe"),
        data=inputs[0].dataset.name if inputs else None,
        dvc_md5=tags.get("dvc.md5"),
        dvc_source_md5=tags.get("dvc.source_md5"),
        git_commit=tags.get("git.commit"),
        git_dirty=tags.get("git.dirty"),
        flow_run_id=tags.get("prefect.flow_run_id"),
        mlflow_run_id=run.info.run_id,
        mlflow_url=url(run.info.run_id),
        parameters=dict(sorted(run.data.params.items())),
    )
