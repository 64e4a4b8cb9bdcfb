"""Registries: what the product is made of is found here by name, and nothing lists the names.

An artifact, a backend, a task, a method and a shipped source is a file each. The file registers its
object when it is imported, and a registry imports the files of its packages when it is first asked.
A package of your own joins through the entry point group `trivet.plugins`: name a module, and it is
imported too.

Not here: what the objects are (artifacts/artifact.py, backends/backend.py, tasks/task.py,
config/method.py, data/source.py).
"""

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trivet import UserError

if TYPE_CHECKING:
    from trivet.artifacts.artifact import Artifact
    from trivet.backends.backend import Backend
    from trivet.config.method import Method
    from trivet.data.source import Source
    from trivet.tasks.task import Task

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects with a `name`: in the order of `packages` and of their files, whichever is imported
    first, and then plug-ins as they come.

    `key` is what users write to choose one, for errors: `tune.method`, `--backend`.
    """

    def __init__(self, kind: str, key: str, *packages: str) -> None:
        self.kind, self.key, self.packages = kind, key, packages
        self._items: dict[str, T] = {}
        self._loaded = False

    def add(self, item: T) -> T:
        """Register; usable as a decorator. ValueError where the name is another's."""
        name = self._name(item)
        if name in self._items and _origin(self._items[name]) != _origin(item):
            raise ValueError(f"two {self.kind}s are called '{name}'")
        self._items[name] = item
        return item

    def remove(self, name: str) -> None:
        del self._items[name]

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._items:
            raise UserError(
                f"{self.key} = '{name}': there is no such {self.kind}; known: {', '.join(self)}."
            )
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._items)

    def values(self) -> list[T]:
        self._load()
        return list(self._items.values())

    def _name(self, item: Any) -> str:
        return str(item.name)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for package in self.packages:
            folder = importlib.import_module(package)
            for module in pkgutil.iter_modules(getattr(folder, "__path__", ())):
                importlib.import_module(f"{package}.{module.name}")
        for point in entry_points(group="trivet.plugins"):
            point.load()
        items = sorted(self._items.items(), key=lambda item: self._place(item[1]))
        self._items = dict(items)

    def _place(self, item: T) -> tuple[int, str]:
        """Without it, who imports a file of ours directly would move its object to the front."""
        module = _origin(item)[0]
        for n, package in enumerate(self.packages):
            if f"{module}.".startswith(f"{package}."):
                return n, module
        return len(self.packages), ""


def _origin(item: Any) -> tuple[str, str]:
    owner = item if isinstance(item, type) else type(item)
    return owner.__module__, owner.__qualname__


# Where the product's own lie. Within a package a file is an object, or what several of them share.
SOURCES: "Registry[Source]" = Registry("source", "data.source", "trivet.data.sources")
TASKS: "Registry[Task]" = Registry("task", "data.task", "trivet.tasks")
METHODS: "Registry[type[Method]]" = Registry("method", "tune.method", "trivet.tuning.methods")
ARTIFACTS: "Registry[Artifact]" = Registry(
    "artifact",
    "artifact",
    "trivet.tuning.adapter",
    "trivet.export",
    "trivet.evaluate.baselines",
    "trivet.fpga",
    "trivet.fpga.stages",
)
BACKENDS: "Registry[Backend]" = Registry(
    "backend", "--backend", "trivet.backends", "trivet.fpga.stages"
)
