"""HLS: an hls4ml project with explicit precisions, and its C simulation."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Watch
from trivet.backends.backend import Usage
from trivet.fpga.stages.compiled import Compiled, CompiledBackend, sign, test_rows
from trivet.fpga.stages.student import STUDENT
from trivet.plugins import ARTIFACTS, BACKENDS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run

SCRIPT = "build_prj.tcl"  # of hls4ml; it lies where its writer put it


class Hls(Compiled):
    """design.json also has what hls4ml's default precision would have done to the test rows."""

    name = "hls"
    title = "compile {recipe} for C simulation"
    needs = ("hls4ml",)

    def settings(self, run: "Run") -> dict[str, Any]:
        return {"part": run.recipe.fpga.part}

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.fpga.errors import recipe_keys
        from trivet.hw.fixed import FixedNetwork
        from trivet.hw.hls.project import build, default_precision

        fixed, part = FixedNetwork.load(run.path(STUDENT)), run.recipe.fpga.part
        with recipe_keys():
            design = build(fixed, folder, part)
            with TemporaryDirectory(dir=folder) as other:
                default = default_precision(fixed, Path(other), part, test_rows(run))
        design.model_copy(update={"default_precision": default}).write(folder)
        sign(run, folder)


HLS = ARTIFACTS.add(Hls())
SCRIPT = "build_prj.tcl"  # hls4ml's own


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
