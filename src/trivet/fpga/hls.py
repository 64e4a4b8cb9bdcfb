"""HLS: an hls4ml project with explicit precisions, and its C simulation."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trivet.artifacts.artifact import Watch
from trivet.fpga.design import Design, sign, test_rows
from trivet.fpga.student import STUDENT
from trivet.plugins import ARTIFACTS

if TYPE_CHECKING:
    from trivet.artifacts.run import Run


class Hls(Design):
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
