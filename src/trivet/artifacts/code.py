"""Which code makes an artifact: found from the imports of the module that builds it.

A comment, a docstring or a file that the builder cannot reach changes no bytes, so it changes no
key. Imports inside functions count; those for type checkers alone do not. Of other people's code
the installed versions count, of the packages that are imported on the way.

Not covered: modules that are imported by a computed name; who does that names them in
`Artifact.roots`. Two minor versions of Python may write the same code's tree differently, so their
keys differ.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import trivet

PACKAGE = Path(trivet.__file__).parent
# They decide where bytes lie and what is found by name, never what the bytes are.
MACHINERY = ("trivet", "trivet.plugins", "trivet.artifacts")
TYPING_ALONE = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@cache
def code(roots: tuple[str, ...]) -> str:
    """sha256 over the code that is reached from these modules, and the versions of packages."""
    digest = hashlib.sha256()
    modules = reach(roots)
    for name in sorted(modules):
        digest.update(f"{name}={_digest(_file(name))}".encode())
    packages = {top for name in modules for top in _imports(_file(name))[1]}
    for name in sorted({dist for top in packages for dist in _distributions().get(top, ())}):
        digest.update(f"{name}={importlib.metadata.version(name)}".encode())
    return digest.hexdigest()


def reach(roots: Iterable[str]) -> set[str]:
    """Trivet's modules that importing and running these can load, the machinery left out."""
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in seen or name in MACHINERY or name.startswith("trivet.artifacts."):
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        todo += [parent] if parent else []
        if file := _file(name):
            todo += _imports(file)[0]
    return {name for name in seen if _file(name)}


def _file(module: str) -> Path | None:
    """A module's file; modules of other people, such as a plug-in's, are found by import."""
    top, *parts = module.split(".")
    if top != "trivet":
        spec = importlib.util.find_spec(module)
        return Path(spec.origin) if spec and spec.origin else None
    place = PACKAGE.joinpath(*parts)
    return next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _digest(file: Path) -> str:
    """Of what is run: neither comments, docstrings nor types' imports, nor where it stands."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
        elif isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ALONE:
            node.body = []
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _imports(file: Path) -> tuple[list[str], list[str]]:
    """Trivet's modules and other people's top-level packages that a file names."""
    ours, theirs = [], []
    for node in _run(_tree(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        ours += [n for n in names if n.split(".")[0] == "trivet"]
        theirs += [n.split(".")[0] for n in names if n.split(".")[0] != "trivet"]
    return ours, theirs


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`; those under its `else:` are run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ALONE:
            yield from _run(ast.Module(node.orelse, []))
            continue
        yield node
        yield from _run(node)


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())  # type: ignore[arg-type]
