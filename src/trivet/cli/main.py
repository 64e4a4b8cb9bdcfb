"""The command line. Exit codes: 0 done or promoted, 3 a gate refused, 2 what you can mend, 1 else.

Libraries that take seconds to import are imported by the commands that need them.
"""

import errno
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from .. import UserError, workspace
from . import fpga_cli, kernels_cli, tables
from . import schedule as scheduling
from . import servers as up
from .console import AsJson, Overrides, RecipeFile, RunName, conclude, connect, out, run_folder
from .recipe import load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(kernels_cli.app, name="kernels")
app.add_typer(fpga_cli.app, name="fpga")


@app.callback()
def trivet() -> None:
    """A data set becomes a small tuned model that gives the same answers on GPU, CPU and FPGA."""


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Data to three legs, proven; promoted when every gate holds.

    Example: trivet run home.toml tune.rank=8
    """
    load(recipe, overrides)  # a bad recipe ends here, before any server starts
    servers = connect()
    from .pipeline import tune

    conclude(lambda: tune(recipe, overrides), servers, as_json)


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What can be known before training: rows, labels, lengths, LoRA targets, three rendered rows.

    Example: trivet check home.toml data.source=mine.csv
    """
    from .steps import check as step
    from .steps import data

    chosen, root = load(recipe, overrides), workspace()
    rows, card = data.peek(chosen, root)
    step.machine(chosen, root)
    found = step.check(chosen, rows, root)
    if as_json:
        print(json.dumps(found.as_dict() | {"card": card}))
    else:
        tables.check(out, found, card)


@app.command()
def compare(first: RunName, second: RunName, as_json: AsJson = False) -> None:
    """Two runs side by side: what differs in the recipe, and every hop's figures.

    Example: trivet compare home-1a2b3c4-5d6e7f8 latest
    """
    found = tables.comparison(run_folder(first), run_folder(second))
    if as_json:
        print(json.dumps(found))
    else:
        tables.compare(out, found)


@app.command()
def why(
    model: Annotated[str, typer.Argument(help="name, name@alias or name/version")] = "",
    as_json: AsJson = False,
) -> None:
    """The chain from a registered model back to recipe, rows, commit and flow run.

    Example: trivet why home@previous
    """
    connect()
    from .steps import registry

    names = [model] if model else registry.registered()
    if not names:
        raise UserError("No model is registered yet: `trivet run home.toml` makes the first.")
    chains = [registry.why(name) for name in names]
    if as_json:
        print(json.dumps(chains[0] if model else chains))
    else:
        for chain in chains:
            tables.chain(out, chain)


@app.command()
def predict(
    run: RunName,
    text: Annotated[str, typer.Argument(help="What to answer.")],
    backend: Annotated[
        str, typer.Option(help="adapter, merged, onnx-fp32, onnx-int8, hls-csim, ...")
    ] = "onnx-fp32",
    as_json: AsJson = False,
) -> None:
    """One answer from one backend of a run.

    Example: trivet predict latest "turn off the kitchen light" --backend onnx-int8
    """
    from .steps import answer

    found = answer.predict(run_folder(run), text, backend)
    if as_json:
        print(json.dumps(found))
    else:
        tables.prediction(out, found)


@app.command()
def chat(
    run: RunName,
    backend: Annotated[
        str, typer.Option(help="merged, adapter, onnx-fp32 or onnx-int8")
    ] = "merged",
) -> None:
    """Talk to the tuned model of a `generate` run; an empty line ends it.

    Example: trivet chat latest
    """
    from .steps import answer

    said: list[dict[str, str]] = []
    talk = answer.chatting(run_folder(run), backend)
    out.print("[dim]An empty line ends the conversation.[/]")
    while text := _ask():
        said.append({"role": "user", "content": text})
        said.append({"role": "assistant", "content": talk(said)})
        out.print(Text(said[-1]["content"], style="green"))


@app.command("up")
def start(
    prefect_port: Annotated[int | None, typer.Option(help="Prefect's port [default: 4200]")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="MLflow's port [default: 5000]")] = None,
) -> None:
    """Start the local Prefect and MLflow servers and a worker; while they are up, schedules fire.

    Example: trivet up --prefect-port 4201
    """
    root = workspace()
    servers = up.up(root, prefect_port, mlflow_port)
    os.environ.update(servers.environment())
    scheduling.deploy(root, servers)
    out.print(
        f"Prefect  {servers.prefect_url}\nMLflow   {servers.mlflow_url}\nStop     trivet down"
    )


@app.command()
def down() -> None:
    """Stop what `trivet up` started. Example: trivet down"""
    stopped = up.down(workspace())
    out.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Which servers run, where, and whether they answer. Example: trivet status"""
    rows = [asdict(row) for row in up.status(workspace())]
    if as_json:
        print(json.dumps(rows))
    else:
        columns = ("name", "url", "pid", "healthy", "since")
        tables.rows([{c: row[c] or "" for c in columns} for row in rows], out)


@app.command()
def schedule(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cron: Annotated[str | None, typer.Option(help='When, for example "0 2 * * *"')] = None,
    after: Annotated[
        int | None, typer.Option("--in", help="Once, this many seconds from now.")
    ] = None,
    remove: Annotated[bool, typer.Option(help="Take the recipe's schedule away.")] = False,
) -> None:
    """Run a recipe on a schedule while `trivet up` is running; unchanged inputs are skipped.

    Example: trivet schedule home.toml --cron "0 2 * * *"
    """
    load(recipe, overrides)
    root, servers = workspace(), connect()
    scheduling.deploy(root, servers)
    if remove:
        scheduling.unschedule(root, servers, recipe)
        out.print(f"{recipe} is no longer scheduled.")
    elif after is not None:
        out.print(f"Flow run {scheduling.run_later(root, servers, recipe, overrides or [], after)}")
    elif cron:
        scheduling.schedule(root, servers, recipe, overrides or [], cron)
        out.print(f"{recipe} runs at '{cron}'. See {servers.prefect_url}/deployments")
    else:
        raise UserError('Say when: --cron "0 2 * * *", or --in 60 for once.')


def _ask() -> str:
    try:
        return out.input("[bold]you> [/]").strip()
    except EOFError:
        return ""


def main() -> None:
    """Entry point: errors that the user can mend become one paragraph and exit code 2."""
    warnings.simplefilter("ignore")  # libraries' notes to developers
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # and its to users: of kernels unused
    # Waiting threads sleep instead of spinning, which starves them on a machine that is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as e:
        _fail(str(e))
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(
            f"No disk space left ({e.filename or 'while writing'}): free some, then run the same "
            "command again."
        )


def _fail(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
