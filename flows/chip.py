"""The chip alone: of any registered model, or of a recipe that tunes nothing.

The registered model's own student is fetched, not trained again. It becomes an hls4ml project and
Verilog, is simulated both ways and synthesised, and the parity table says whether every form of it
gives the same logits. What comes out is registered beside the model, as `<model>-chip`.
"""

from prefect import flow

from trivet.config.recipe import load_chip, validate
from trivet.flows.tune import Outcome, run_pipeline
from trivet.registry.models import chip_recipe


@flow(name="fpga-build", description=__doc__)
def fpga_build(model: str = "home@champion", overrides: list[str] | None = None) -> Outcome:
    """`model`: `name`, `name@alias`, `name/version`, or a recipe file (`*.toml`)."""
    if model.endswith(".toml"):
        return run_pipeline(load_chip(model, overrides))
    return run_pipeline(validate(chip_recipe(model), overrides, source=model))
