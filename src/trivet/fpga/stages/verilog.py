"""Verilog: the student as RTL with its test bench, and the compiler's bit-accurate interpreter."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Watch
from trivet.fpga.stages.compiled import Compiled, CompiledBackend, golden_rows, sign
from trivet.fpga.stages.student import STUDENT
from trivet.plugins import ARTIFACTS, BACKENDS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run


class Verilog(Compiled):
    """Sources, test bench and golden vectors, of which the first are test rows."""

    name = "verilog"
    title = "compile {recipe} to Verilog"

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
