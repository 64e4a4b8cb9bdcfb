"""RTL: the student as Verilog with its test bench, answered by the compiler's own bit-accurate
interpreter and by a simulation, cycle by cycle.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Artifact, Watch
from trivet.backends.backend import Usage
from trivet.fpga.stages.compiled import Compiled, CompiledBackend, golden_rows, sign
from trivet.fpga.stages.student import STUDENT
from trivet.plugins import ARTIFACTS, BACKENDS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class Verilog(Compiled):
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


class Alkaid(CompiledBackend):
    name = "alkaid"
    artifact = VERILOG
    words = "Verilog compiler's bit-accurate interpreter"

    def network(self, folder: Path) -> Any:
        from trivet.hw.rtl.interpreter import Interpreter

        return Interpreter(folder)


BACKENDS.add(Alkaid())


class Rtl(Compiled):
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


class RtlBackend(CompiledBackend):
    name = "rtl"
    artifact = RTL
    words = "Verilog, simulated cycle by cycle"
    vectors = 20_000

    def network(self, folder: Path) -> Any:
        from trivet.hw.rtl.simulation import RtlSim

        return RtlSim(folder)

    def usage(self, run: Path) -> Usage:
        return Usage(
            "Verilog in src/, a test bench for any simulator, golden vectors, constraints and "
            "scripts for Vivado and Quartus; README.md says how to open it.",
            f"make -C runs/{run.name}/{RTL.name} check VERILATOR=verilator-cli",
        )


BACKENDS.add(RtlBackend())
