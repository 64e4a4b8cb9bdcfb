"""lineage.json: the chain from a run back to recipe, rows, commit and flow run."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trivet.records.record import Record


class Registered(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    alias: str


class Lineage(Record):
    """`keys`: each artifact's key, in full; `decided`: what machine and hub decided for it."""

    file: ClassVar[str] = "lineage.json"
    newest: ClassVar[int] = 2
    version: int = 2

    run: str
    lineage: str
    recipe: str
    dvc_md5: str
    git_commit: str
    git_dirty: bool
    flow_run_id: str
    flow_run_url: str | None
    mlflow_run_id: str
    mlflow_url: str
    registered: Registered | None
    keys: dict[str, str] = Field(default_factory=dict)
    decided: dict[str, dict[str, str]] = Field(default_factory=dict)

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        return tree
