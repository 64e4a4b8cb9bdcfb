"""Which code is in an artifact's key: what its builder reaches, and nothing else.

Run: pytest tests/unit/test_code.py
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from trivet.artifacts import code as codes
from trivet.config.recipe import load
from trivet.plugins import ARTIFACTS
from trivet.tuning.adapter import ADAPTER

FILES = {
    "__init__.py": "",
    "builder/__init__.py": "",
    "builder/adapter.py": (
        '"""Makes an adapter."""\n'
        "from typing import TYPE_CHECKING\n"
        "import numpy as np\n"
        "from trivet.builder import steps\n"
        "if TYPE_CHECKING:\n"
        "    from trivet.types_alone import Form\n"
        "    import torch\n"
        "else:\n"
        "    from trivet.other_branch import Form\n"
        "def build(form: 'Form') -> int:\n"
        '    """Builds it."""\n'
        "    from trivet.late import work\n"
        "    return work(steps)\n"
    ),
    "builder/steps.py": "class Step:\n    def one(self):\n        import trivet.deep.nested\n",
    "late.py": "def work(steps):\n    return 1  # one\n",
    "deep/__init__.py": "",
    "deep/nested.py": "if not __debug__:\n    import pandas\n",
    "types_alone.py": "class Form: ...\n",
    "other_branch.py": "class Form: ...\n",
    "hw/__init__.py": "",
    "hw/verilog.py": "import trivet.builder.adapter\n",
    "artifacts/__init__.py": "import trivet.hw.verilog\n",
    "plugins.py": "import trivet.hw.verilog\n",
}
ROOT = ("trivet.builder.adapter",)
Change = Callable[[str, str, str], str]


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Replaces text in a file of a small package called trivet; the digest of the builder's code.

    Each call begins with the files as they were.
    """
    monkeypatch.setattr(codes, "PACKAGE", tmp_path)

    def replace(name: str, old: str, new: str) -> str:
        for place, text in FILES.items():
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).write_text(text)
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new, 1))
        forget()
        return codes.code(ROOT)

    yield replace
    monkeypatch.undo()
    forget()


def forget() -> None:
    """The files are another process's from here on."""
    for function in (codes.code, codes._tree, codes._digest, codes._imports):
        function.cache_clear()


def test_what_is_reached(change: Change) -> None:
    change("late.py", "", "")
    assert codes.reach(ROOT) == {
        "trivet.builder",
        "trivet.builder.adapter",
        "trivet.builder.steps",
        "trivet.late",  # imported in a function
        "trivet.deep",
        "trivet.deep.nested",  # imported in a method
        "trivet.other_branch",
    }


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("late.py", "# one", "# another thought"),
        ("late.py", "\n    return", "\n\n    return"),
        ("builder/adapter.py", "Makes an adapter.", "It makes one."),
        ("builder/adapter.py", '    """Builds it."""\n', ""),
        ("builder/steps.py", "class Step:\n", 'class Step:\n    """A step."""\n\n'),
        ("hw/verilog.py", "import trivet", "WIDTH = 9\nimport trivet"),  # out of its reach
        ("types_alone.py", "...", "x = 1"),
        ("plugins.py", "import", "x = 1\nimport"),
        ("artifacts/__init__.py", "import", "x = 1\nimport"),
        ("builder/adapter.py", "    import torch\n", "    import pandas\n"),
    ],
)
def test_what_changes_no_bytes_changes_no_key(
    file: str, old: str, new: str, change: Change
) -> None:
    assert change(file, "", "") == change(file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("late.py", "return 1", "return 2"),
        ("builder/adapter.py", "return work(steps)", "return work(None)"),
        ("builder/steps.py", "def one", "def two"),
        ("deep/nested.py", "import pandas", "import numpy"),
        ("deep/__init__.py", "", "x = 1\n"),
        ("other_branch.py", "...", "x = 1"),
    ],
)
def test_what_may_change_bytes_changes_the_key(
    file: str, old: str, new: str, change: Change
) -> None:
    assert change(file, "", "") != change(file, old, new)


@pytest.mark.parametrize(
    ("package", "counts"),
    [("numpy", True), ("pandas", True), ("torch", False), ("scikit-learn", False)],
)
def test_versions_count_of_packages_that_are_imported_on_the_way(
    package: str, counts: bool, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = change("late.py", "", "")
    version = importlib.metadata.version

    def upgraded(name: str) -> str:
        return "99.0" if name == package else version(name)

    monkeypatch.setattr(importlib.metadata, "version", upgraded)
    assert (change("late.py", "", "") != before) == counts


def test_the_products_adapter_does_not_reach_what_is_made_of_it() -> None:
    """Of the real tree: nothing of hw, the chip, exports, report, registry, flows or the CLI."""
    forget()
    recipe = load("home.toml")
    reached = codes.reach(ADAPTER.roots(recipe))
    assert {"trivet.tuning.loop", "trivet.tuning.methods.lora", "trivet.tasks.classify"} <= reached
    assert {"trivet.kernels.ops.lora.op", "trivet.data.dataset"} <= reached
    parts = {name.split(".")[1] for name in reached}
    assert not parts & {"hw", "fpga", "export", "backends", "evaluate", "report", "registry"}
    assert not parts & {"flows", "serve", "cli"}
    assert not {name for name in reached if name.startswith("trivet.kernels.verify")}
    assert "trivet.tasks.tag" not in reached


def test_every_artifact_reaches_its_own_file() -> None:
    forget()
    for name in ("home.toml", "digits.toml"):
        recipe = load(name)
        for artifact in ARTIFACTS.values():
            if artifact.wanted(recipe):
                assert type(artifact).__module__ in codes.reach(artifact.roots(recipe))
                assert len(codes.code(artifact.roots(recipe))) == 64


def test_a_task_that_gives_rows_their_label_is_in_the_keys_of_those_that_draw_by_it() -> None:
    """Tagged rows have an intent too, and are drawn in balance by it: classify says what it is."""
    forget()
    for name, tasks in (
        ("home.toml", {"classify"}),
        ("home-slots.toml", {"classify", "tag"}),
        ("chat.toml", {"classify", "generate"}),
    ):
        reached = codes.reach(ADAPTER.roots(load(name)))
        known = {"trivet.tasks.classify", "trivet.tasks.tag", "trivet.tasks.generate"}
        assert reached & known == {f"trivet.tasks.{task}" for task in tasks}
