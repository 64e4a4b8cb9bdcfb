"""One run's identity, and where its artifacts lie.

Data + recipe + code + what machine and hub decided make a lineage key. Each artifact has a key of
its own from what it depends on alone, so a change of a gate does not tune again. Artifacts lie in
the store and are hard-linked into `runs/<run>/`: two runs that share an adapter share its bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Artifact, Watch
from trivet.artifacts.code import code
from trivet.artifacts.store import Store
from trivet.config.recipe import Recipe
from trivet.plugins import ARTIFACTS, BACKENDS
from trivet.records.dataset import DatasetVersion

if TYPE_CHECKING:
    from trivet.backends.backend import Backend


@dataclass(frozen=True)
class Run:
    """`decided`: artifact's name -> what its `decide` said when the run began."""

    root: Path
    recipe: Recipe
    data: DatasetVersion
    decided: dict[str, dict[str, str]]
    store: Store

    @classmethod
    def begin(cls, root: Path, recipe: Recipe, data: DatasetVersion) -> "Run":
        """What the hub and the machine decide is asked here, once. Raises UserError."""
        wanted = [a for a in ARTIFACTS.values() if a.wanted(recipe)]
        decided = {a.name: words for a in wanted if (words := a.decide(recipe, root))}
        return cls(root, recipe, data, decided, Store.at(root))

    @cached_property
    def lineage(self) -> str:
        """sha256 over the whole recipe, the data and everything that the run makes."""
        content = {
            "recipe": self.recipe.model_dump(),
            "data": self.data.source_md5,
            "artifacts": [self.key(artifact) for artifact in self.artifacts()],
            "backends": [backend.name for backend in self.backends()],
            "code": code(("trivet.evaluate.parity",)),
        }
        return _sha256(content)

    @property
    def name(self) -> str:
        """`<recipe>-<data version>-<lineage>`, 7 digits each."""
        return f"{self.recipe.name}-{self.data.source_md5[:7]}-{self.lineage[:7]}"

    @property
    def folder(self) -> Path:
        return self.root / "runs" / self.name

    def artifacts(self) -> list[Artifact]:
        """What the run makes, each after its parents, and as near behind them as it may be."""
        wanted = [a for a in ARTIFACTS.values() if a.wanted(self.recipe)]
        return list(dict.fromkeys(part for artifact in wanted for part in self.line(artifact)))

    def line(self, artifact: Artifact) -> list[Artifact]:
        """What must be built for an artifact, itself the last."""
        before = (self.line(parent) for parent in artifact.parents(self.recipe))
        return [*dict.fromkeys(part for line in before for part in line), artifact]

    def backends(self) -> "list[Backend]":
        """The backends that the run is proven on, each after its reference and in its line."""
        wanted = [backend for backend in BACKENDS.values() if backend.wanted(self.recipe)]
        order: list[Backend] = []

        def visit(reference: "Backend | None") -> None:
            for backend in wanted:
                if backend.reference_among(wanted) is reference:
                    order.append(backend)
                    visit(backend)

        visit(None)
        return order

    def key(self, artifact: Artifact) -> str:
        """sha256 over everything that the artifact's bytes depend on."""
        recipe = self.recipe
        content = {
            "artifact": artifact.name,
            "settings": artifact.settings(self),
            "decided": self.decided.get(artifact.name, {}),
            "code": code(artifact.roots(recipe)),
            "parents": [self.key(parent) for parent in artifact.parents(recipe)],
        }
        return _sha256(content)

    def slot(self, artifact: Artifact) -> str:
        """The artifact's name in the store."""
        return f"{artifact.name}-{self.key(artifact)[:16]}"

    def has(self, artifact: Artifact) -> bool:
        return self.store.has(self.slot(artifact))

    def path(self, artifact: Artifact) -> Path:
        """The artifact's folder. FileNotFoundError where it is not built."""
        return self.store.path(self.slot(artifact))

    def build(self, artifact: Artifact, watch: Watch | None = None) -> Path:
        """`path(artifact)`, built unless it is there. Two builders wait for each other."""

        def make(folder: Path) -> None:
            artifact.build(self, folder, watch or Watch())

        return self.store.build(self.slot(artifact), make, artifact.resume)

    def publish(self) -> None:
        """Hard-link what was made into the run's folder, which a person opens."""
        for artifact in self.artifacts():
            target = self.folder / artifact.name
            if not artifact.kept_inside and not target.exists() and self.has(artifact):
                self.store.link(self.slot(artifact), target)


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
