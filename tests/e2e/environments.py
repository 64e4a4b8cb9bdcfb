"""Environments with fewer packages than the one that the tests run in."""

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from product import python_path

DEMO = ("fpga", "gpu")  # the extras that `make demo` installs
TOOLS = {"pip", "setuptools"}


def demo(*absent: str) -> dict[str, str]:
    """The environment of `make demo`: what was installed for development only is not there, nor
    are the packages `absent`.
    """
    installed = {_normal(dist.name) for dist in importlib.metadata.distributions()}
    hidden = (installed - _brought("trivet", DEMO) - TOOLS) | set(absent)
    modules = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if {_normal(name) for name in names} <= hidden
    }
    return {
        "PYTHONPATH": python_path(Path(__file__).parent / "absent"),
        "TRIVET_TEST_ABSENT": " ".join(sorted(hidden)),
        "TRIVET_TEST_ABSENT_MODULES": " ".join(sorted(modules)),
    }


def _brought(package: str, extras: tuple[str, ...]) -> set[str]:
    """The packages that installing this one with these extras brings, itself among them."""
    seen: set[tuple[str, str]] = set()
    todo = [(package, extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another system
            continue
        for needed in map(Requirement, lines):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(_normal(needed.name), e) for e in ("", *needed.extras)]
    return {name for name, _ in seen}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
