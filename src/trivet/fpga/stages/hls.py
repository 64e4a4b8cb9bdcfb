"""The hls4ml project's C simulation."""

from pathlib import Path
from typing import Any

from trivet.backends.backend import Usage
from trivet.fpga.hls import HLS
from trivet.fpga.stages.compiled import CompiledBackend
from trivet.plugins import BACKENDS

SCRIPT = "build_prj.tcl"  # of hls4ml; it lies where its writer put it


class HlsCsim(CompiledBackend):
    name = "hls-csim"
    artifact = HLS
    words = "hls4ml project, C simulation"

    def network(self, folder: Path) -> Any:
        from trivet.hw.hls.simulation import CSim

        return CSim(folder)

    def usage(self, run: Path) -> Usage:
        script = next((run / HLS.name).rglob(SCRIPT), run / HLS.name / SCRIPT)
        where = script.parent.relative_to(run).as_posix()
        return Usage(
            "An hls4ml project: C++ in firmware/, and a script that synthesizes it where Vitis is "
            "installed. The C simulation needs only g++.",
            f"cd runs/{run.name}/{where} && vitis_hls -f {SCRIPT}",
        )


BACKENDS.add(HlsCsim())
