"""What a stage says of its design, as a typed record and as the JSON file beside the design.

A record is frozen, refuses keys that it does not know, and has a version, so that a folder of an
older release still opens and one of a newer release says why it does not.
Not here: the records themselves, which lie with their stages.
"""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from trivet.hw.errors import DesignError


class Part(BaseModel):
    """A piece of a record: frozen, of known keys, without a version of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(Part):
    """One JSON file. A key that was renamed is read by its former name too (AliasChoices)."""

    FILE: ClassVar[str]
    version: int = 1

    def to_json(self) -> str:
        return self.model_dump_json(indent=1, by_alias=True) + "\n"

    def write(self, folder: Path) -> Path:
        """Write the record's file into `folder`; returns its path."""
        path = folder / self.FILE
        path.write_text(self.to_json(), encoding="utf-8")
        return path

    @classmethod
    def parse(cls, text: str, source: Path) -> Self:
        """A record from the text of the file `source`; without a version it is of version 1.

        Raises DesignError, which names the file, for a newer version or what is no such record.
        """
        known = cls.model_fields["version"].default
        try:
            data = from_json(text)
            version = data.get("version", 1)
            if version <= known:
                return cls.model_validate(data)
        except (ValueError, TypeError, AttributeError) as error:
            raise DesignError(f"{source} holds no {cls.__name__}: {error}") from error
        raise DesignError(
            f"{source} has version {version}, and {known} is the newest that is read here: open it "
            "with the release that wrote it, or build it again."
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record in `folder`. Raises DesignError as `parse` does, and where there is none."""
        path = folder / cls.FILE
        if not path.exists():
            raise DesignError(f"{path} is missing: build the design again.")
        return cls.parse(path.read_text(encoding="utf-8"), path)
