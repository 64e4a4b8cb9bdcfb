"""[data]: what to learn from. [model]: what to tune."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from trivet.config.section import Section
from trivet.plugins import TASKS

if TYPE_CHECKING:
    from trivet.tasks.task import Shape


class Reading(Section):
    """How a user's file is read. What is empty is found out, and said by `trivet check`."""

    format: str = Field("", description="of its rows; empty = recognised by their columns")
    columns: dict[str, str] = Field(
        default_factory=dict, description="a format's column = the file's own name for it"
    )
    ignore: list[str] = Field(
        default_factory=list, description="columns, or keys of turns, that are left out"
    )
    bad_rows: int = Field(
        0, ge=0, description="rows that may be put aside; with more the file is refused"
    )

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, name: str) -> str:
        known = sorted({shape.format for shape in _shapes()} - {""})
        if name and name not in known:
            raise ValueError(
                f"data.format = {name!r}: there is no such format; known: {', '.join(known)}"
            )
        return name

    @field_validator("columns")
    @classmethod
    def _columns_are_read(cls, columns: dict[str, str]) -> dict[str, str]:
        known = {"split"}.union(*(s.columns + s.optional for s in _shapes()))
        for name in columns:
            if name not in known:
                raise ValueError(
                    f"data.columns.{name}: no format has such a column; they have "
                    f"{', '.join(sorted(known))}"
                )
        return columns


def _shapes() -> "list[Shape]":
    return [shape for task in TASKS.values() for shape in task.shapes]


class Data(Reading):
    """What to learn from. `source`: a shipped source, or a file: .csv, .tsv, .jsonl, .json,
    .parquet or .npz, also as .gz or in a .zip (`rows.zip::train.csv`).

    An .npz file holds `x`, numbers or token ids [rows, …], and `y`, their labels.
    """

    source: str
    task: str = "classify"
    prompt: str = Field("", description="text around a row's {text}; empty = the task's own")
    learn: Literal["all", "last"] = Field(
        "all", description="of a training conversation's replies, its weights of 0 left out"
    )
    rows: int = Field(0, ge=0, description="labelled training rows, balanced by label; 0 = all")
    pool: int = Field(
        4000, ge=0, description="unlabelled rows that the teacher labels for the student"
    )
    test: int = Field(600, ge=1, description="held-out rows that every backend answers")
    max_length: int = Field(256, ge=8, description="tokens; longer rows are cut, and counted")
    seed: int = 0

    @field_validator("task")
    @classmethod
    def _task_is_known(cls, name: str) -> str:
        if name not in TASKS:
            raise ValueError(
                f"data.task = {name!r}: there is no such task; known: {', '.join(TASKS)}"
            )
        return name

    @model_validator(mode="after")
    def _learn_of_replies(self) -> Self:
        if self.learn != "all" and not TASKS[self.task].talks:
            raise ValueError(
                f"data.learn = '{self.learn}' says which replies of a conversation are learnt, and "
                f"data.task = '{self.task}' has none: leave it out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _prompt_of_task(cls, tree: Any) -> Any:
        """The task's own prompt where the recipe names none; a row's text must have a place."""
        name = tree.get("task", "classify") if isinstance(tree, dict) else None
        if isinstance(name, str) and name in TASKS and not tree.get("prompt"):
            return tree | {"prompt": TASKS[name].prompt}
        return tree

    @field_validator("prompt")
    @classmethod
    def _prompt_holds_text(cls, prompt: str) -> str:
        if prompt and "{text}" not in prompt:
            raise ValueError("data.prompt must hold '{text}', the place where a row's text goes")
        return prompt


class Model(Section):
    """`base`: a packaged one (`smollm2-135m-instruct`, `all-minilm-l6-v2`), a hub id, or a local
    folder of safetensors.
    """

    base: str = "smollm2-135m-instruct"
    revision: str = Field("", description="of a hub id: branch, tag or commit; empty = its main")
    trust_remote_code: bool = False
