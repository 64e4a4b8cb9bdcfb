"""The pages name what is there: files, commands with their options and keys, extras, tiers.

Run: .venv/bin/pytest tests/unit/test_docs.py

Not covered: whether what they say is true; files of a run, which are not in the repository.
"""

import hashlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from trivet.cli.main import app
from trivet.config.recipe import SHIPPED, load

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "infra" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IGNORED = (ROOT / ".gitignore").read_text().split()  # a person makes them
TREES = r"(?:src|flows|kernels|hw|infra|tests|docs|benchmarks|\.ci|\.github)"
# sha256 of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
UsageError: Any = typer.BadParameter.__base__  # Typer has a Click of its own
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands(text: str) -> list[tuple[str, bool]]:
    """Every `trivet ...` of a page, and whether it is one to type as it stands: a line of a block
    is, a name in running text may lack its arguments.
    """
    blocks = re.findall(r"^    +(trivet .*)$", text, flags=re.M)
    lines = [(part, True) for line in blocks for part in _parts(line)]
    prose = re.sub(r"^    .*$", "", text, flags=re.M)
    quoted = re.findall(r"`(trivet\s[^`]+)`", prose)
    return lines + [(" ".join(words.split()), False) for words in quoted]


def _parts(line: str) -> list[str]:
    """`trivet a && trivet b` and `trivet a · b` are two."""
    first, *others = re.split(r" && | · ", re.split(r"\s# ", line + " ")[0])
    return [first, *(o if o.startswith("trivet ") else f"trivet {o}" for o in others)]


def parse(words: list[str], whole: bool) -> dict[str, Any]:
    """A command's parameters as the command line reads them; UsageError where it does not."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if not (words or whole):
        return {}
    context = command.make_context("trivet", list(words))
    if hasattr(command, "commands") and words:
        command.resolve_command(context, words)
    return dict(context.params)


@each_page
def test_paths_are_there(page: Path) -> None:
    text = page.read_text()
    names = set(re.findall(rf"(?<![\w/.>-]){TREES}/[\w./-]*\w", text)) - set(IGNORED)
    missing = [name for name in names if not (ROOT / name).exists()]
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing += [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@each_page
def test_sections_that_are_linked_are_there(page: Path) -> None:
    for link, section in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        target = (page.parent / link) if link else page
        titles = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.M)
        anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
        assert section in anchors


@each_page
def test_commands_are_the_command_lines(page: Path) -> None:
    for line, whole in commands(page.read_text()):
        words = shlex.split(line)[1:]
        parameters = parse(words, whole)
        recipe = parameters.get("recipe") or parameters.get("model") or ""
        if (SHIPPED / recipe).is_file():
            load(recipe, parameters["overrides"])


@pytest.mark.parametrize(
    "words",
    [["rnu", "home.toml"], ["predict", "latest", "hello", "--backends", "merged"], ["chip"]],
)
def test_a_command_that_is_none_is_found(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words, whole=True)


@each_page
def test_make_targets_extras_and_tiers_exist(page: Path) -> None:
    text = page.read_text()
    rules = re.findall(r"^([^\s#:=][^:=\n]*):(?!=)", (ROOT / "Makefile").read_text(), flags=re.M)
    known = " ".join(rules).replace("$(BIN)", ".venv/bin").split()
    assert set(re.findall(r"(?:^    |`)make ([\w.][\w./-]*\w)", text, flags=re.M)) <= set(known)
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(re.findall(r"(?:trivet|'\.)\[([\w-]+)\]", text)) <= set(extras)
    markers = [m.split(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert set(re.findall(r"pytest -m (\w+)", text)) <= set(markers)


def test_every_tier_has_its_line() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]:
        assert f"`make {marker.split(':')[0]}`" in text


def test_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert versions[0] == PROJECT["project"]["version"]


def test_license_is_apache_2_whole_and_unchanged() -> None:
    """But for the line that the text itself says is to be filled in."""
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    owner = re.search(r"^   Copyright (\d{4} .+)$", text, flags=re.M)
    assert owner and owner[1].endswith("Trivet authors")
    blank = text.replace(owner[1], "[yyyy] [name of copyright owner]")
    assert hashlib.sha256(blank.encode()).hexdigest() == APACHE
