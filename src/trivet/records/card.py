"""trivet.json: what an artifact must know of its making to answer rows, without the recipe."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trivet.plugins import TASKS
from trivet.records.record import Record


class Base(BaseModel):
    """The base model: as in the recipe, and the revision that was resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    revision: str = ""
    trust_remote_code: bool = False


class Card(Record):
    file: ClassVar[str] = "trivet.json"
    newest: ClassVar[int] = 2
    version: int = 2

    task: str
    prompt: str
    max_length: int
    labels: list[str]
    model: Base

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        if "data" not in tree:
            return tree
        data = tree["data"]  # version 1 held the recipe's whole [data]
        return {
            "task": data["task"],
            "prompt": TASKS[data["task"]].first_prompt or data["prompt"],
            "max_length": data["max_length"],
            "labels": tree["labels"],
            "model": tree["model"],
        }
