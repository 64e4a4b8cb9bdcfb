"""`trivet fpga`: the chip alone, and the search for the student that it can hold."""

from typing import Annotated

import typer

from trivet.cli.console import AsJson, Overrides, RecipeFile, conclude, connect, out, typed

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
    from trivet.extras import require

    require("fpga", "The chip")
    again = None
    if model.endswith(".toml"):
        from trivet.config.recipe import load_chip

        load_chip(model, overrides)  # a bad recipe ends here, before any server starts
        again = typed(model, overrides)
    servers = connect()
    from trivet.flows.chip import fpga_build

    conclude(lambda: fpga_build(model, overrides), servers, again, as_json)


@app.command()
def search(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Students of many sizes, widths and sparsities: accuracy against LUTs and cycles.

    Goes on where it was stopped. Example: trivet fpga search home.toml fpga.max_lut=5000
    """
    from trivet.cli import tables
    from trivet.config.recipe import load_chip
    from trivet.extras import require

    load_chip(recipe, overrides)
    require("fpga", "The search")
    servers = connect()
    from trivet.flows.search import fpga_search

    result = fpga_search(recipe, overrides)
    if as_json:
        print(result.model_dump_json())
    else:
        tables.search(out, result, servers, typed(recipe, overrides))
