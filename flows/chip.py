"""The chip alone: of any registered model, or of a recipe that tunes nothing.

The registered model's own student is fetched, not trained again. It becomes an hls4ml project and
Verilog, is simulated both ways and synthesised, and the parity table says whether every form of it
gives the same logits. What comes out is registered beside the model, as `<model>-chip`.
"""

from typing import Any

from prefect import flow

from .pipeline import follow
from .recipe import load_chip, validate
from .steps import registry


@flow(name="fpga-build", description=__doc__)
def fpga_build(model: str = "home@champion", overrides: list[str] | None = None) -> dict[str, Any]:
    """`model`: `name`, `name@alias`, `name/version`, or a recipe file (`*.toml`)."""
    if model.endswith(".toml"):
        return follow(load_chip(model, overrides))
    return follow(validate(registry.chip_recipe(model), overrides, source=model))
