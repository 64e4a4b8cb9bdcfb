"""`trivet check` of one's own file, as a person calls it.

Run: pytest tests/e2e/test_check_command.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trivet import UserError
from trivet.check import check
from trivet.config.recipe import Recipe
from trivet.tuning.adapter import ADAPTER

GOOD = "text,label\n" + "".join(
    f"{verb} the {room} light,{verb}\n" for verb in ("dim", "raise") for room in "abcdefghij"
)


def test_ones_own_file_is_checked_by_naming_it(workspace: Path) -> None:
    (workspace / "mine.csv").write_text(GOOD)
    words = [sys.executable, "-m", "trivet.cli.main", "check", "home.toml"]
    words += ["data.source=mine.csv", "data.rows=0"]
    report = json.loads(subprocess.run([*words, "--json"], capture_output=True, check=True).stdout)
    assert report["labels"] == ["dim", "raise"] and sum(report["rows"].values()) == 20
    assert report["coverage"]["modules"]["query"] == 7 and len(report["preview"]) == 3
    token, carries = report["preview"][0][-1]
    assert carries and not any(c for _, c in report["preview"][0][:-1]) and token.strip() == "[SEP]"
    screen = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert "trainable weights" in screen and "light" in screen


def test_what_of_a_conversation_is_not_learnt_is_said(small_base: Path, tmp_path: Path) -> None:
    """Of each kind a count that is none of the others'."""
    user = {"role": "user", "content": "Which light?"}
    reply = {"role": "assistant", "content": "The lamp."}
    rows = {
        "train": [
            *[{"messages": [user, reply, user, reply]}] * 7,
            *[{"messages": [user, reply | {"weight": 0}]}] * 2,
            *[{"messages": [user, reply | {"content": "Say <|im_end|>."}, user, reply]}] * 3,
            *[{"messages": [user, reply | {"content": "    return 1"}, user, reply]}] * 4,
            *[{"messages": [reply, user, reply]}] * 5,
            *[{"messages": [user | {"content": "<|im_start|>?"}, reply]}] * 6,
        ],
        "valid": [{"messages": [user, reply]}],
        "test": [{"messages": [user, reply]}, {"messages": [user, reply | {"weight": 0}]}],
    }
    data = {"source": "mine", "task": "generate"}
    tune = {"method": "lora", "rank": 2}
    recipe = Recipe.model_validate(
        {"name": "x", "data": data, "model": {"base": str(small_base)}, "tune": tune}
        | {"fpga": {"enabled": False}, "export": {"int8": False}}
    )
    decided = ADAPTER.decide(recipe, tmp_path)
    checked = check(recipe, rows, tmp_path, decided)
    words = [note.split(",")[0].split(" (")[0].split(":")[0] for note in checked.notes]
    assert sorted(words) == [
        "1 test rows have no reply to be measured by",
        "2 conversations have no reply that is learnt",
        "3 replies spell a control token of the model in their text",
        "4 conversations are several training examples",
        "5 assistant turns answer no user's turn before them",
        "9 texts hold markup that the tokenizer reads as control tokens",
    ]
    marked = [token for token, carries in checked.preview[0] if carries]
    assert "".join(marked) == "The lamp.<|im_end|>The lamp.<|im_end|>"
    rows["train"] = rows["train"][7:9]
    with pytest.raises(UserError, match=r"no row of the train split .* 2 conversations have no"):
        check(recipe, rows, tmp_path, decided)
