"""What a run writes about itself: versioned models, so that an old folder opens or says its age.

One class for each file; console, page, HTTP and tests read the same ones. A class whose form has
changed says in `upgrade` what an older form means in today's.
"""

import json
import os
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from trivet import UserError


class Record(BaseModel):
    """A file of JSON with a version. `file`: its name in a folder; `newest`: what is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: ClassVar[str]
    newest: ClassVar[int] = 1
    version: int = 1

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        """The content of an older version in today's form. Without a version it is the first."""
        return tree

    @classmethod
    def read(cls, folder: Path) -> Self:
        """UserError where the file is a newer Trivet's or not what it should be."""
        path = folder / cls.file
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            version = tree.get("version", 1) if isinstance(tree, dict) else 1
            if version > cls.newest:
                raise UserError(
                    f"{path} has version {version}, and this Trivet reads up to {cls.newest}: it "
                    "was written by a newer one; update Trivet."
                )
            return cls.model_validate(cls.upgrade(tree) | {"version": cls.newest})
        except (ValidationError, json.JSONDecodeError, KeyError, TypeError) as e:
            reason = " ".join(str(e).split())
            raise UserError(
                f"{path} is no {cls.__name__} of version 1 to {cls.newest} ({reason:.200}): it was "
                "changed by hand or half-written; run the recipe again."
            ) from None

    @classmethod
    def read_if_there(cls, folder: Path) -> Self | None:
        return cls.read(folder) if (folder / cls.file).exists() else None

    def write(self, folder: Path) -> Path:
        """Whole or not at all."""
        return write_text(folder / self.file, self.model_dump_json(indent=1) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a file, whole or not at all. A hard link elsewhere keeps the old content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    return part.replace(path)
