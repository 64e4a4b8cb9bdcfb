"""The command line: what bad input gets, and that nothing is left half-written.

Run: pytest tests/unit/test_cli.py
"""

import os
import socket
import sys
from pathlib import Path

import pytest

from trivet.cli import main as cli

GOOD = "text,label\n" + "".join(
    f"{verb} the {room} light,{verb}\n" for verb in ("dim", "raise") for room in "abcdefghij"
)


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """The one paragraph that the command ends with, exit code 2."""
    monkeypatch.setattr(sys, "argv", ["trivet", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def tree(root: Path) -> dict[str, int]:
    ours = (p for p in root.rglob("*") if p.is_file() and ".git" not in p.parts)
    return {str(p): p.stat().st_mtime_ns for p in ours}


BAD_FILES = {
    "missing": (None, "there is no such file"),
    "empty": (b"", "empty"),
    "one class": (b"text,label\na,x\nb,x\nc,x\nd,x\n", "each row has the label 'x'"),
    "only in test": (
        b"text,label,split\nt,a,train\nu,b,train\nv,a,valid\nw,b,valid\nz,strange,test\n",
        "strange",
    ),
    "not UTF-8": (b"text,label\ncaf\xe9,x\n", "UTF-8"),
    "10 MB row": (b"text,label\n" + b"x" * 10_000_000 + b",a\n", "MB"),
    "NaN": (b"text,label\nhello,\nyou,b\n", "line 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, workspace: Path, capsys, monkeypatch) -> None:
    content, reason = BAD_FILES[case]
    if content is not None:
        (workspace / "mine.csv").write_bytes(content)
    before = tree(workspace)
    said = fails(capsys, monkeypatch, "check", "home.toml", "data.source=mine.csv", "data.rows=0")
    assert "mine.csv" in said and reason in said
    assert tree(workspace) == before


def test_a_broken_json_line_is_named(workspace: Path, capsys, monkeypatch) -> None:
    (workspace / "mine.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": "a", \n')
    said = fails(capsys, monkeypatch, "check", "home.toml", "data.source=mine.jsonl")
    assert "line 2" in said and "mine.jsonl" in said


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("tune.rnk=8", "unknown key tune.rnk"),
        ("tune.rank=deep", "tune.rank = 'deep'"),
        ('tune.targets=["q_proj"]', "tune.targets: q_proj matches no linear layer of bert"),
        ("model.base=weightless", "model.base = 'weightless' has no"),
        ("data.task=generate", "data.task"),
    ],
)
def test_bad_recipes(override: str, reason: str, workspace: Path, capsys, monkeypatch) -> None:
    (workspace / "weightless").mkdir()
    (workspace / "mine.csv").write_text(GOOD)
    before = tree(workspace)
    said = fails(
        capsys,
        monkeypatch,
        "check",
        "home.toml",
        "data.source=mine.csv",
        "data.rows=0",
        "fpga.enabled=false",
        override,
    )
    assert reason in said and tree(workspace) == before


def test_no_disk_space(workspace: Path, small_base: Path, capsys, monkeypatch) -> None:
    """A base whose weights are said to be larger than the disk: a sparse file of 100 TB."""
    huge = workspace / "huge"
    huge.mkdir()
    for file in small_base.iterdir():
        if file.suffix != ".safetensors":
            (huge / file.name).write_bytes(file.read_bytes())
    with (huge / "model.safetensors").open("wb") as weights:
        try:
            os.truncate(weights.fileno(), 10**13)
        except OSError:
            pytest.skip("this file system has no sparse file of 10 TB")
    (workspace / "mine.csv").write_text(GOOD)
    said = fails(
        capsys,
        monkeypatch,
        "check",
        "home.toml",
        "data.source=mine.csv",
        "data.rows=0",
        "model.base=huge",
    )
    assert "No disk space" in said and "model.base = 'huge'" in said


def test_no_compiler(workspace: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(workspace))
    (workspace / "mine.csv").write_text(GOOD)
    said = fails(capsys, monkeypatch, "check", "home.toml", "data.source=mine.csv", "data.rows=0")
    assert "g++ is not on the PATH" in said and "fpga.enabled = false" in said


def test_a_taken_port(workspace: Path, capsys, monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        said = fails(capsys, monkeypatch, "up", "--prefect-port", str(port))
    assert str(port) in said and "--prefect-port" in said


def test_outside_a_workspace(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no data.dvc upwards" in fails(capsys, monkeypatch, "status")


def test_every_command_has_help_with_an_example() -> None:
    from typer.main import get_command

    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {
        "run",
        "check",
        "compare",
        "why",
        "predict",
        "chat",
        "up",
        "down",
        "status",
        "schedule",
        "kernels",
        "fpga",
    } <= set(commands)
    for group in ("kernels", "fpga"):
        commands |= {f"{group} {k}": v for k, v in commands[group].commands.items()}
    assert {"fpga build", "fpga search", "kernels bench"} <= set(commands)
    assert [name for name, c in commands.items() if "Example: trivet" not in (c.help or "")] == []
