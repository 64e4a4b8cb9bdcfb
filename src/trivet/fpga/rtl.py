"""RTL: the student as Verilog with its test bench, and that again with its simulation."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Artifact, Watch
from trivet.fpga.design import Design, sign, test_rows
from trivet.fpga.student import STUDENT
from trivet.plugins import ARTIFACTS

if TYPE_CHECKING:
    import numpy as np

    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe
    from trivet.hw.fixed import FixedNetwork


class Verilog(Design):
    """Sources, test bench and golden vectors, of which the first are test rows."""

    name = "verilog"
    title = "compile {recipe} to Verilog"
    needs = ("alkaid",)

    def settings(self, run: "Run") -> dict[str, Any]:
        return run.recipe.fpga.model_dump(include={"part", "max_cycles"})

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.fpga.errors import recipe_keys
        from trivet.hw.fixed import FixedNetwork
        from trivet.hw.rtl.project import build

        fixed, chip = FixedNetwork.load(run.path(STUDENT)), run.recipe.fpga
        with recipe_keys():
            build(fixed, folder, chip.part, chip.max_cycles, rows=golden_rows(run, fixed))
        sign(run, folder)


VERILOG = ARTIFACTS.add(Verilog())


class Rtl(Design):
    """A copy of the Verilog, compiled, and what it measured: a tool that fails leaves the other."""

    name = "rtl"
    title = "compile {recipe} for RTL simulation"
    needs = ("verilator",)

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (VERILOG,)

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.fpga.errors import recipe_keys
        from trivet.hw.fixed import FixedNetwork
        from trivet.hw.rtl.project import verify

        shutil.copytree(run.path(VERILOG), folder, dirs_exist_ok=True)
        fixed = FixedNetwork.load(folder)
        with recipe_keys():
            verify(fixed, folder, golden_rows(run, fixed))


RTL = ARTIFACTS.add(Rtl())


def golden_rows(run: "Run", fixed: "FixedNetwork") -> "np.ndarray":
    """Half of the golden vectors, shaped as the network's rows."""
    from trivet.hw.rtl.project import GOLDEN

    x = test_rows(run, GOLDEN // 2)
    return x.reshape(len(x), *fixed.shape)
