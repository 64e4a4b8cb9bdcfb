"""One answer as its user reads it. Each task has a form of its own (tasks/)."""

from abc import abstractmethod
from typing import Any

from trivet.records.record import Record


class Answer(Record):
    """Subclasses add fields; `lines` are what a terminal shows."""

    @abstractmethod
    def lines(self) -> list[tuple[str, ...]]:
        """Rows of a table; one cell alone is running text."""

    def cells(self) -> dict[str, Any]:
        """As a row of a data frame: column -> what JSON can say."""
        return self.model_dump(mode="json", exclude={"version"})
