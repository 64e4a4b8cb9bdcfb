"""What is said about a source beside its rows (data/<source>/card.json), and one version of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trivet.records.record import Record


class DataCard(BaseModel):
    """Its bytes are versioned with the rows: what is None is not written, and keys are sorted.

    `task`: the tasks that the rows serve, with spaces between. `origin`: a package or a file, with
    its hash. `files`: sha256 of each. `edited`: somebody changed the rows by hand.

    Of a user's file: `format`: its name; `reading`: what the recipe said of it, beside defaults;
    `used_columns`, `ignored_columns`: the file's own, and keys of turns; `quarantined`: bad rows,
    which lie in quarantine.jsonl; `alike_labels`: groups of labels that differ by case, white space
    or the way in which a number is written; `markup`, `changes`: what was left in texts, and what
    was done to values, in words -> rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    kind: str
    task: str
    seed: int
    duplicates_removed: int
    duplicates_with_another_label: int
    rows: dict[str, int]
    labels: dict[str, int]
    licence: str
    origin: dict[str, str]
    templates: dict[str, int] | None = None
    format: str | None = None
    reading: dict[str, Any] | None = None
    used_columns: list[str] | None = None
    ignored_columns: list[str] | None = None
    quarantined: int | None = None
    alike_labels: list[list[str]] | None = None
    markup: dict[str, int] | None = None
    changes: dict[str, int] | None = None
    files: dict[str, str] | None = None
    edited: bool | None = None


@dataclass(frozen=True)
class DatasetVersion:
    """One version of one source.

    `folder`: data/<source>. `md5`: DVC's hash of all of data/, as in data.dvc; `source_md5`: DVC's
    own hash of the sub-tree data/<source>; both end in ".dir". `changed`: "unchanged", "built",
    "checked out", "pulled" or "new version".
    """

    folder: Path
    md5: str
    source_md5: str
    card: DataCard
    changed: str


class RunData(Record):
    """data.json of a run: its source, which version, and what was drawn from it.

    `example`: the text of a held-out row, to try the run on; empty where rows are no text.
    """

    file: ClassVar[str] = "data.json"
    newest: ClassVar[int] = 2
    version: int = 2

    card: DataCard
    md5: str
    rows: dict[str, int]
    tokens: dict[str, float]
    truncated: int
    example: str = ""

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        if "card" in tree:
            return tree
        own = ("md5", "tokens", "truncated")  # version 1 held them among the card's
        card = {key: value for key, value in tree.items() if key not in own}
        return {"card": card, "rows": tree["rows"]} | {key: tree[key] for key in own}
