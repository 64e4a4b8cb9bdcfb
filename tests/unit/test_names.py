"""What the product is made of is named in one file each; nothing else holds it as a string."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trivet
from trivet.plugins import ARTIFACTS, BACKENDS, METHODS, SOURCES, TASKS

PACKAGE = Path(trivet.__file__).parent
# The defaults of a recipe, which a recipe might as well have spelled out.
DEFAULTS = {("config/data.py", "classify"), ("config/recipe.py", "lora")}
# Also names of packages, or words for a key in a record of what was found there.
OTHERS = {("kernels", "lora"), ("fpga/rtl.py", "alkaid")}


def literals(file: Path) -> Iterator[tuple[int, str]]:
    """Strings of a file that are neither docstrings nor words of a sentence."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def names(registry: object) -> dict[str, str]:
    """name -> the file that registers it."""
    owners = {}
    for item in registry.values():  # type: ignore[attr-defined]
        module = (item if isinstance(item, type) else type(item)).__module__
        owners[str(item.name)] = module.removeprefix("trivet.").replace(".", "/") + ".py"
    return owners


@pytest.mark.parametrize("registry", [BACKENDS, TASKS, METHODS, SOURCES], ids=lambda r: r.kind)
def test_a_name_stands_in_its_own_file_alone(registry: object) -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        for line, text in literals(file):
            for name, owner in names(registry).items():
                own = place == owner or (place, name) in DEFAULTS
                other = name in ARTIFACTS or {(place, name), (place.split("/")[0], name)} & OTHERS
                if text == name and not own and not other:
                    found.append(f"{place}:{line} {text!r}")
    assert not found


@pytest.mark.parametrize("page", sorted((PACKAGE / "report").glob("*.html")), ids=lambda p: p.name)
def test_the_page_names_none(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in (*BACKENDS, *TASKS):
        assert not re.search(rf"[\"']{re.escape(name)}[\"']", text), name


def test_a_planted_name_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text('"""onnx-int8"""\nif backend == "onnx-int8":\n    pass\n')
    assert (2, "onnx-int8") in list(literals(file))


def test_artifacts_are_named_by_their_objects() -> None:
    """An artifact's name is a folder's too, so only comparisons with one would be a leak."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                values = [c.value for c in node.comparators if isinstance(c, ast.Constant)]
                assert not set(values) & set(ARTIFACTS), f"{file.name}:{node.lineno}"
