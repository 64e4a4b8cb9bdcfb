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
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from trivet import UserError, workspace
from trivet.cli import chip, kernels
from trivet.cli.console import (
    AsJson,
    Overrides,
    RecipeFile,
    RunName,
    conclude,
    connect,
    fail,
    out,
    run_folder,
    typed,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(kernels.app, name="kernels")
app.add_typer(chip.app, name="fpga")


class WithBackends(TyperCommand):
    """A command whose help names the registered backends; they are looked up only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from trivet.plugins import BACKENDS

        for parameter in self.params:
            if parameter.name == "backend":
                parameter.help = ", ".join(BACKENDS) + "; unnamed, the run's preferred one"  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


Backend = Annotated[str | None, typer.Option(help="Who answers.")]


@app.callback()
def trivet() -> None:
    """A data set becomes a small tuned model that gives the same answers on GPU, CPU and FPGA."""


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Data to three legs, proven; promoted when every gate holds.

    Example: trivet run home.toml tune.rank=8
    """
    from trivet.config.recipe import load

    load(recipe, overrides)  # a bad recipe ends here, before any server starts
    servers = connect()
    from trivet.flows.tune import tune

    conclude(lambda: tune(recipe, overrides), servers, typed(recipe, overrides), as_json)


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What can be known before training: rows, labels, lengths, LoRA targets, three rows as tokens.

    Example: trivet check home.toml data.source=mine.csv
    """
    from trivet import check as checking
    from trivet.cli import tables
    from trivet.config.recipe import load
    from trivet.data import versions
    from trivet.tuning.adapter import ADAPTER

    chosen, root = load(recipe, overrides), workspace()
    rows, card = versions.peek(chosen.data, root)
    notes = checking.machine(chosen, root)
    decided = ADAPTER.decide(chosen, root) if ADAPTER.wanted(chosen) else {}
    checked = checking.check(chosen, rows, root, decided)
    checked = checked.model_copy(update={"notes": [*notes, *checked.notes]})
    if as_json:
        print(checked.model_dump_json())
    else:
        tables.check(out, checked, card)


@app.command()
def compare(first: RunName, second: RunName, as_json: AsJson = False) -> None:
    """Two runs side by side: what differs in the recipe, and every stage's figures.

    Example: trivet compare home-1a2b3c4-5d6e7f8 latest
    """
    from trivet.cli import tables
    from trivet.evaluate.comparison import compare_runs

    comparison = compare_runs(run_folder(first), run_folder(second))
    if as_json:
        print(comparison.model_dump_json())
    else:
        tables.compare(out, comparison)


@app.command()
def why(
    model: Annotated[str, typer.Argument(help="name, name@alias or name/version")] = "",
    as_json: AsJson = False,
) -> None:
    """The chain from a registered model back to recipe, rows, commit and flow run.

    Example: trivet why home@previous
    """
    connect()
    from trivet import registry
    from trivet.cli import tables

    names = [model] if model else registry.registered()
    if not names:
        raise UserError("No model is registered yet: `trivet run home.toml` makes the first.")
    chains = [registry.why(name) for name in names]
    if as_json:
        texts = [chain.model_dump_json() for chain in chains]
        print(texts[0] if model else f"[{', '.join(texts)}]")
    else:
        for chain in chains:
            tables.chain(out, chain)


@app.command(cls=WithBackends)
def predict(
    run: RunName,
    text: Annotated[str, typer.Argument(help="What to answer.")],
    backend: Backend = None,
    as_json: AsJson = False,
) -> None:
    """One answer from one backend of a run.

    Example: trivet predict latest "turn off the kitchen light" --backend onnx-int8
    """
    from trivet.cli import tables
    from trivet.evaluate.predict import predict as answer

    folder = run_folder(run)
    result, who = answer(folder, text, backend)
    if as_json:
        question = {"run": folder.name, "backend": who.name, "text": text}
        print(json.dumps(question | result.model_dump(exclude={"version"})))
    else:
        tables.answer(out, result)


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(help="An artifact's folder, your own or a received one.")
    ],
    as_json: AsJson = False,
) -> None:
    """Ask a folder its golden rows again, by stock libraries alone; 1 where something differs.

    It runs Trivet's own verify.py, and nothing that lies in the folder.

    Example: trivet verify runs/home-1a2b3c4-5d6e7f8/onnx
    """
    from trivet.evaluate.stock import check_folder

    done = check_folder(folder)
    if as_json:
        print(json.dumps(done.results))
    else:
        out.print(done.said.rstrip(), markup=False, soft_wrap=True)
    for note in done.notes:
        print(note, file=sys.stderr)
    raise typer.Exit(done.returncode)


@app.command(cls=WithBackends)
def chat(run: RunName, backend: Backend = None) -> None:
    """Talk to the tuned model of a run that replies; an empty line ends it.

    Example: trivet chat latest
    """
    from trivet.evaluate.predict import chatting

    messages: list[dict[str, str]] = []
    reply = chatting(run_folder(run), backend)
    out.print("[dim]An empty line ends the conversation.[/]")
    while text := _ask():
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": reply(messages)})
        out.print(Text(messages[-1]["content"], style="green"))


@app.command()
def up(
    prefect_port: Annotated[int | None, typer.Option(help="Prefect's port [default: 4200]")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="MLflow's port [default: 5000]")] = None,
) -> None:
    """Start the local Prefect and MLflow servers and a worker; while they are up, schedules fire.

    Example: trivet up --prefect-port 4201
    """
    from trivet.flows import schedule, servers

    root = workspace()
    running = servers.up(root, prefect_port, mlflow_port)
    os.environ.update(running.environment())
    schedule.deploy(root, running)
    out.print(
        f"Prefect  {running.prefect_url}\nMLflow   {running.mlflow_url}\nStop     trivet down"
    )


@app.command()
def down() -> None:
    """Stop what `trivet up` started. Example: trivet down"""
    from trivet.flows import servers

    stopped = servers.down(workspace())
    out.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Which servers run, where, and whether they answer. Example: trivet status"""
    from trivet.cli import tables
    from trivet.flows import servers

    rows = [asdict(row) for row in servers.status(workspace())]
    if as_json:
        print(json.dumps(rows))
    else:
        columns = ("name", "url", "pid", "healthy", "since")
        tables.rows([{c: row[c] or "" for c in columns} for row in rows], out)


@app.command("schedule")
def schedule_recipe(
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
    from trivet.config.recipe import load
    from trivet.flows import schedule

    load(recipe, overrides)
    root, servers = workspace(), connect()
    schedule.deploy(root, servers)
    if remove:
        schedule.unschedule(root, servers, recipe)
        out.print(f"{recipe} is no longer scheduled.")
    elif after is not None:
        out.print(f"Flow run {schedule.run_later(root, servers, recipe, overrides or [], after)}")
    elif cron:
        schedule.schedule(root, servers, recipe, overrides or [], cron)
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
        fail(str(e))
    except ModuleNotFoundError as e:
        from trivet import extras

        extra = extras.bringing(e.name or "")
        if not extra:
            raise
        fail(f"The package {e.name} is not installed: {extras.install(extra)}.")
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(
            f"No disk space left ({e.filename or 'while writing'}): free some, then run the same "
            "command again."
        )


if __name__ == "__main__":
    main()
