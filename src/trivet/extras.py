"""Which extra brings a package that is missing: said before anything works for minutes."""

import importlib.metadata
import re
from collections.abc import Iterator

from trivet import UserError


def absent(package: str) -> bool:
    """Whether a package is not installed; nothing is imported."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


def require(extra: str, purpose: str) -> None:
    """UserError where something of the extra is missing."""
    if missing := [package for package, name in _extras() if name == extra and absent(package)]:
        raise UserError(f"{purpose} needs {', '.join(missing)}: {install(extra)}.")


def bringing(module: str) -> str:
    """The extra that brings a package or the module of its name; "" where none does."""
    name = module.split(".")[0].replace("_", "-").lower()
    return next((extra for package, extra in _extras() if package.lower() == name), "")


def install(extra: str) -> str:
    return f"pip install 'trivet[{extra}]' brings it (in a clone: pip install -e '.[{extra}]')"


def _extras() -> Iterator[tuple[str, str]]:
    """Each package that an extra brings, and which."""
    for requirement in importlib.metadata.requires("trivet") or []:
        name, _, marker = requirement.partition(";")
        if extra := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker):
            yield re.split(r"[\s\[<>=!~(]", name.strip())[0].replace("_", "-"), extra[1]
