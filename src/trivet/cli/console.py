"""What the commands share: the servers they speak to, the run they name, a run's end."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trivet import UserError, workspace

if TYPE_CHECKING:
    from trivet.flows.server_state import Servers
    from trivet.flows.tune import Outcome

out = Console(highlight=False)

RecipeFile = Annotated[str, typer.Argument(help="A recipe file, or a shipped one by its name.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, for example tune.rank=8")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RunName = Annotated[str, typer.Argument(help="A run's name or the start of it, or 'latest'.")]


def connect() -> "Servers":
    """The servers, and their addresses in the environment before Prefect or MLflow read it."""
    from trivet.flows import servers

    # The console shows our own lines; Prefect's go to its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    running = servers.connect(workspace())
    os.environ.update(running.environment())
    return running


def conclude(
    flow: "Callable[[], Outcome]", servers: "Servers", again: str | None, as_json: bool
) -> None:
    """Run a flow to its parity table and print that; exit 3 when a gate refused.

    `again`: the recipe and overrides as they were typed, for what may be done next.
    """
    from trivet.cli import tables
    from trivet.evaluate.parity import GateRefused

    try:
        table = flow().table
    except GateRefused as refused:
        table = refused.table
    if as_json:
        print(table.model_dump_json())
    else:
        folder = workspace() / "runs" / table.run
        tables.parity(out, table)
        tables.chip(out, folder)
        tables.results(out, folder, table, servers, again)
    if not table.promoted:
        raise typer.Exit(3)


def typed(recipe: str, overrides: list[str] | None) -> str:
    """Recipe and overrides as a shell reads them."""
    return shlex.join([recipe, *(overrides or [])])


def run_folder(name: str) -> Path:
    """A run's folder by its name, the start of its name, or `latest`. Raises UserError."""
    runs = workspace() / "runs"
    whole = sorted((p.parent for p in runs.glob("*/parity.json")), key=lambda p: p.stat().st_mtime)
    matches = [p for p in whole if name in ("latest", p.name)] or [
        p for p in whole if p.name.startswith(name)
    ]
    if name == "latest" and matches:
        return matches[-1]
    if len(matches) != 1:
        names = ", ".join(p.name for p in (matches or whole))
        names = names or "none yet, make one with `trivet run home.toml`"
        raise UserError(f"RUN = '{name}' {'fits several' if matches else 'is not there'}: {names}.")
    return matches[0]


def fail(message: str) -> None:
    from rich.markup import escape

    Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(2)
