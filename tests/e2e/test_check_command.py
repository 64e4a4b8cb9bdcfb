"""`trivet check` of one's own file, as a person calls it.

Run: pytest tests/e2e/test_check_command.py
"""

import json
import subprocess
import sys
from pathlib import Path

GOOD = "text,label\n" + "".join(
    f"{verb} the {room} light,{verb}\n" for verb in ("dim", "raise") for room in "abcdefghij"
)


def test_ones_own_file_is_checked_by_naming_it(workspace: Path) -> None:
    (workspace / "mine.csv").write_text(GOOD)
    words = [sys.executable, "-m", "trivet.cli.main", "check", "home.toml"]
    words += ["data.source=mine.csv", "data.rows=0"]
    report = json.loads(subprocess.run([*words, "--json"], capture_output=True, check=True).stdout)
    assert report["labels"] == ["dim", "raise"] and sum(report["rows"].values()) == 20
    assert report["coverage"]["modules"]["q_proj"] == 30 and len(report["preview"]) == 3
    token, carries = report["preview"][0][-1]
    assert carries and not any(c for _, c in report["preview"][0][:-1]) and token == ":"
    screen = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert "trainable weights" in screen and "Command:" in screen
