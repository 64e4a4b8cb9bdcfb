"""What the commands share: the servers they speak to, the run they name, a run's end."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import UserError, workspace
from . import servers as up
from . import tables

out = Console(highlight=False)

RecipeFile = Annotated[str, typer.Argument(help="A recipe file, or a shipped one by its name.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, for example tune.rank=8")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RunName = Annotated[str, typer.Argument(help="A run's name or the start of it, or 'latest'.")]


def connect() -> up.Servers:
    """The servers, and their addresses in the environment before Prefect or MLflow read it."""
    # The console shows our own lines; Prefect's go to its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    servers = up.connect(workspace())
    os.environ.update(servers.environment())
    return servers


def conclude(flow: Callable[[], dict[str, Any]], servers: up.Servers, as_json: bool) -> None:
    """Run a flow to its parity table and print that; exit 3 when a gate refused."""
    from .steps.parity import GateRefused

    try:
        table = flow()["parity"]
    except GateRefused as refused:
        table = refused.parity
    if as_json:
        print(json.dumps(table))
    else:
        folder = workspace() / "runs" / table["run"]
        tables.parity(out, table)
        tables.chip(out, folder)
        tables.made(out, folder, table, servers)
    if not table["promoted"]:
        raise typer.Exit(3)


def run_folder(name: str) -> Path:
    """A run's folder by its name, the start of its name, or `latest`. Raises UserError."""
    runs = workspace() / "runs"
    whole = sorted((p.parent for p in runs.glob("*/parity.json")), key=lambda p: p.stat().st_mtime)
    found = [p for p in whole if name in ("latest", p.name)] or [
        p for p in whole if p.name.startswith(name)
    ]
    if name == "latest" and found:
        return found[-1]
    if len(found) != 1:
        names = (
            ", ".join(p.name for p in (found or whole))
            or "none yet, make one with `trivet run home.toml`"
        )
        raise UserError(f"RUN = '{name}' {'fits several' if found else 'is not there'}: {names}.")
    return found[0]
