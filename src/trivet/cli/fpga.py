"""`trivet fpga`: the chip alone, and the search for the student that it can hold."""

import json
from typing import Annotated

import typer

from . import tables
from .console import AsJson, Overrides, RecipeFile, conclude, connect, out
from .recipe import load_chip

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def fpga() -> None:
    """The student on the chip: build and prove it, or search for a better one.

    Example: trivet fpga build home@champion
    """


@app.command()
def build(
    model: Annotated[
        str, typer.Argument(help="A registered model (home@champion, home/3) or a recipe file.")
    ],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """HLS project, Verilog and synthesis of a model's student, proven bit for bit.

    Example: trivet fpga build home@champion
    """
    if model.endswith(".toml"):
        load_chip(model, overrides)  # a bad recipe ends here, before any server starts
    servers = connect()
    from .fpga_build import fpga_build

    conclude(lambda: fpga_build(model, overrides), servers, as_json)


@app.command()
def search(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Students of many sizes, widths and sparsities: accuracy against LUTs and cycles.

    Goes on where it was stopped. Example: trivet fpga search home.toml fpga.max_lut=5000
    """
    load_chip(recipe, overrides)
    servers = connect()
    from .fpga_search import fpga_search

    found = fpga_search(recipe, overrides)
    if as_json:
        print(json.dumps(found))
    else:
        tables.search(out, found, servers)
