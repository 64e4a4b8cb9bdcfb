"""Environments with fewer packages than the one that the tests run in."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

from packaging.requirements import Requirement

DEMO = ("fpga", "gpu")  # the extras that `make demo` installs


def demo(folder: Path, *absent: str) -> Path:
    """The Python of an environment as `make demo` makes it, in `folder`: what was installed for
    development only is not there, nor are the packages `absent`. The others are linked.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    present = _brought("trivet", DEMO) - set(absent)
    hidden, shown = set(), set()
    for package in importlib.metadata.distributions():
        entries = {file.parts[0] for file in package.files or ()}
        (shown if _normal(package.name) in present else hidden).update(entries)
    site = Path(sysconfig.get_path("purelib"))
    target = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for entry in site.iterdir():
        if entry.name not in hidden - shown:
            (target / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


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
