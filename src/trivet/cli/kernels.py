"""`trivet kernels`: what is known of the GPU kernels, with a GPU and without."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from trivet import UserError, workspace
from trivet.cli.console import AsJson, out

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def kernels(context: typer.Context, as_json: AsJson = False) -> None:
    """The kernels' evidence without a GPU: error, launches, bytes, registers, spills.

    Example: trivet kernels --json
    """
    if context.invoked_subcommand:
        return
    record = _collect()
    if as_json:
        print(json.dumps(record))
    else:
        _table(record)
        out.print(
            f"\nCompiled {len(record['kernels'])} kernels for four targets, interpreted "
            f"{len(record['errors'])} operators, modelled {len(record['traffic'])} layers; "
            "nothing was timed."
        )
        out.print("Next:    trivet kernels docs\n         trivet kernels bench", soft_wrap=True)
    _refuse(record)


@app.command()
def docs() -> None:
    """Write docs/kernels.md and its roofline picture from the code as it is.

    Example: trivet kernels docs
    """
    record = _collect()
    from trivet.kernels.verify import report

    for path in report.write(record, workspace() / "docs"):
        out.print(f"wrote {_short(path)}", soft_wrap=True)
    _refuse(record)


@app.command()
def bench(
    minutes: Annotated[float, typer.Option(help="Stop measuring after this long.")] = 8.0,
    as_json: AsJson = False,
) -> None:
    """On a GPU: check every operator, then time the layer against others; writes docs/.

    Example: trivet kernels bench
    """
    from trivet.extras import require

    require("gpu", "The comparison with other kernels")
    from trivet.kernels.verify import benchmark

    try:
        benchmark.device()  # no GPU: ends here, in words
    except benchmark.NoDevice as error:
        raise UserError(f"{error} `trivet kernels` shows that.") from None
    with _bar("measuring") as on_progress:
        record = benchmark.run(on_progress, minutes * 60)
    if as_json:
        print(json.dumps(record))
        return
    path = benchmark.write(record, workspace() / "docs")
    out.print(benchmark.document(record))
    out.print(f"wrote {_short(path)}", soft_wrap=True)


def _collect() -> dict[str, Any]:
    from trivet.extras import require

    require("gpu", "The comparison with other kernels")
    from trivet.kernels.verify import verification

    with _bar("compiling, interpreting, metering") as on_progress:
        return verification.collect(on_progress)


def _table(record: dict[str, Any]) -> None:
    from trivet.cli.tables import LOOK
    from trivet.kernels.hardware.gpus import TARGETS
    from trivet.kernels.verify import report, verification

    grid = Table("kernel", **LOOK, padding=(0, 1, 0, 0))
    for name in ("error", "launches", "bytes", *TARGETS):
        grid.add_column(name, justify="right", no_wrap=True)
    for r in verification.summary(record):
        if r["op"]:
            grid.add_section()
            count = str(r["launches"])
            grid.add_row(f"[bold]{r['op']}[/]", report.number(r["error"], ".2f"), count)
        cells = (report.cell(r["targets"][t]) for t in TARGETS)
        grid.add_row(f"  {r['kernel']}", "", "", report.number(r["bytes"], ".2f"), *cells)
    out.print(grid)
    out.print(
        "error: ours ÷ eager's, against float64 · bytes: modelled ÷ compulsory · targets: "
        "registers/matrix instructions +spills",
        style="dim",
    )
    layers = Table("layer", "direction", **LOOK)
    for name in ("launches", "MB", "× least", "saved MB"):
        layers.add_column(name, justify="right", no_wrap=True)
    for place, r in enumerate(record["traffic"]):
        if r["shape"] == record["traffic"][0]["shape"]:
            layers.add_row(
                r["layer"],
                r["direction"],
                str(r["launches"]),
                f"{r['bytes'] / 1e6:,.0f}",
                f"{r['ratio']:.2f}",
                f"{r['saved'] / 1e6:,.1f}",
                style="bold" if place < 2 else "",
            )
    out.print(f"\nOne LoRA layer, {record['traffic'][0]['shape']}, bfloat16, modelled")
    out.print(layers)


def _refuse(record: dict[str, Any]) -> None:
    """Exit 3 when the compile gate refuses a kernel or an error is too large."""
    from trivet.kernels.verify import verification

    refusals = verification.refusals(record)
    for words in refusals:
        Console(stderr=True, highlight=False).print(
            f"[bold red]Refused:[/] {words}", soft_wrap=True
        )
    if refusals:
        raise typer.Exit(3)


@contextmanager
def _bar(subject: str) -> Iterator[Callable[[float], None]]:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        row = bar.add_task(subject, total=1.0)
        yield lambda share: bar.update(row, completed=share)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
