"""A program ends: by itself, with an error, or killed with all that it started.

Run: .venv/bin/pytest tests/unit/hw/test_tools.py
"""

import subprocess
import time
from pathlib import Path

import pytest

from trivet.hw import tools
from trivet.hw.errors import ToolError


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo here; sleep 300 & echo $!; wait"]
    with pytest.raises(ToolError, match=r"^sh was stopped after 0\.5 s$"):
        tools.run(command, tmp_path, tmp_path / "log", 0.5)
    here, child = (tmp_path / "log").read_text().split()
    assert here == "here"
    for _ in range(50):  # the kernel takes its time
        gone = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True)
        if gone.stdout.strip() in ("", "Z"):
            break
        time.sleep(0.1)
    assert gone.stdout.strip() in ("", "Z")


def test_what_a_tool_says_and_how_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tools.run(["sh", "-c", "pwd; echo $A >&2"], tmp_path, log, 5, {"A": "b"})
    assert log.read_text().split() == [str(tmp_path), "b"]
    with pytest.raises(ToolError, match="^false failed with 1$"):
        tools.run(["false"], tmp_path, log, 5)
    with pytest.raises(ToolError, match="^no-such-tool was not found$"):
        tools.run(["no-such-tool"], tmp_path, log, 5)


def test_the_first_error_of_a_log_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tools.first_error(log) == "no error in its log"
    log.write_text(f"all well\nx.cpp:1: error: {'long ' * 100}\nError 2\n")
    assert tools.first_error(log).startswith("x.cpp:1: error: long")
    assert len(tools.first_error(log)) == 300
