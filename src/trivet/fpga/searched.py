"""A search's folder: what the trials of one search have in common makes its key."""

from typing import TYPE_CHECKING, Any

from trivet.fpga.stages.student import CHIP, Student

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

TRIED = {"hidden", "weight_bits", "activation_bits", "sparsity"}  # what trials differ in


class Searched(Student):
    """Not built by a run, so not registered: it grows by a file a trial (flows/search.py)."""

    name = "search"

    def settings(self, run: "Run") -> dict[str, Any]:
        settings = super().settings(run)
        return settings | {
            "fpga": run.recipe.fpga.model_dump(exclude={"enabled", *CHIP, *TRIED}),
        }

    def roots(self, recipe: Any) -> tuple[str, ...]:
        return ("trivet.fpga.training", "trivet.hw.search.trial")


SEARCHED = Searched()
