"""Which extra brings a package that is missing: said before anything works for minutes."""

import importlib.metadata
import re

from trivet import UserError


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed, by their names; nothing is imported."""
    absent = []
    for requirement in importlib.metadata.requires("trivet") or []:
        name, _, marker = requirement.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker):
            package = re.split(r"[\s\[<>=!~(]", name.strip())[0]
            if not _installed(package):
                absent.append(package)
    return absent


def require(extra: str, purpose: str) -> None:
    """UserError where something of the extra is missing."""
    if absent := missing(extra):
        raise UserError(f"{purpose} needs {', '.join(absent)}: {install(extra)}.")


def install(extra: str) -> str:
    return f"pip install 'trivet[{extra}]' brings it (in a clone: pip install -e '.[{extra}]')"


def bringing(module: str) -> str | None:
    """The extra that brings an import that failed, or None."""
    for requirement in importlib.metadata.requires("trivet") or []:
        name, _, marker = requirement.partition(";")
        package = re.split(r"[\s\[<>=!~(]", name.strip())[0]
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if extra and package.replace("-", "_").lower() == module.split(".")[0].lower():
            return extra[1]
    return None


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
