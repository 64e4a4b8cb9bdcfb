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

from .. import workspace
from .console import AsJson, out
from .tables import LOOK

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def kernels(context: typer.Context, as_json: AsJson = False) -> None:
    """The kernels' evidence without a GPU: error, launches, bytes, registers, spills.

    Example: trivet kernels --json
    """
    if context.invoked_subcommand:
        return
    found = _collect()
    if as_json:
        print(json.dumps(found))
    else:
        _table(found)
        out.print(
            f"\nCompiled {len(found['kernels'])} kernels for four targets, interpreted "
            f"{len(found['errors'])} operators, modelled {len(found['traffic'])} layers; "
            "nothing was timed."
        )
        out.print("Next:    trivet kernels docs\n         trivet kernels bench", soft_wrap=True)
    _refuse(found)


@app.command()
def docs() -> None:
    """Write docs/kernels.md and its roofline picture from the code as it is.

    Example: trivet kernels docs
    """
    from ..kernels import report

    found = _collect()
    for path in report.write(found, workspace() / "docs"):
        out.print(f"wrote {_short(path)}", soft_wrap=True)
    _refuse(found)


@app.command()
def bench(
    minutes: Annotated[float, typer.Option(help="Stop measuring after this long.")] = 8.0,
    as_json: AsJson = False,
) -> None:
    """On a GPU: check every operator, then time the layer against others; writes docs/.

    Example: trivet kernels bench
    """
    from ..kernels import bench as benching

    benching.device()  # no GPU: ends here, in words
    with _bar("measuring") as tell:
        found = benching.run(tell, minutes * 60)
    if as_json:
        print(json.dumps(found))
        return
    path = benching.write(found, workspace() / "docs")
    out.print(benching.document(found))
    out.print(f"wrote {_short(path)}", soft_wrap=True)


def _collect() -> dict[str, Any]:
    from ..kernels import evidence

    with _bar("compiling, interpreting, metering") as tell:
        return evidence.collect(tell)


def _table(found: dict[str, Any]) -> None:
    from ..kernels import evidence, report
    from ..kernels.spec import TARGETS

    grid = Table("kernel", **LOOK, padding=(0, 1, 0, 0))
    for name in ("error", "launches", "bytes", *TARGETS):
        grid.add_column(name, justify="right", no_wrap=True)
    for r in evidence.summary(found):
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
    for place, r in enumerate(found["traffic"]):
        if r["shape"] == found["traffic"][0]["shape"]:
            layers.add_row(
                r["layer"],
                r["direction"],
                str(r["launches"]),
                f"{r['bytes'] / 1e6:,.0f}",
                f"{r['ratio']:.2f}",
                f"{r['saved'] / 1e6:,.1f}",
                style="bold" if place < 2 else "",
            )
    out.print(f"\nOne LoRA layer, {found['traffic'][0]['shape']}, bfloat16, modelled")
    out.print(layers)


def _refuse(found: dict[str, Any]) -> None:
    """Exit 3 when the compile gate refuses a kernel or an error is too large."""
    refused = found["faults"] + [
        f"{r['op']}: error {r['ratio']:.3g} × eager's, at most {r['bound']:g} is allowed"
        for r in found["errors"]
        if r["ratio"] > r["bound"]
    ]
    for fault in refused:
        Console(stderr=True, highlight=False).print(
            f"[bold red]Refused:[/] {fault}", soft_wrap=True
        )
    if refused:
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
