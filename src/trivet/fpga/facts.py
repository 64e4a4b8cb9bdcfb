"""What a run knows of its chip, gathered from the folders of its artifacts.

Not here: any measuring. Cycles were counted by the test bench, resources estimated by open tools.
"""

from pathlib import Path
from typing import TypeVar

from trivet.hw.hls.records import HlsDesign
from trivet.hw.record import Record
from trivet.hw.rtl.records import RtlDesign, Wave
from trivet.hw.synth.records import SynthReport, VendorReport
from trivet.records.chip import ChipFacts
from trivet.records.student import StudentFacts

T = TypeVar("T", bound=Record)


def chip_facts(
    part: str, student: Path, hls: Path | None, rtl: Path | None, synth: Path | None
) -> ChipFacts:
    """The facts of a run's fpga.json, from its artifacts' folders; None: the artifact is not built.

    `part`: the FPGA's name, as in the recipe.
    """
    project = _read(HlsDesign, hls)
    tree = {
        "part": part,
        "student": StudentFacts.read(student),
        "default_precision": project.default_precision if project else None,
        "design": _read(RtlDesign, rtl),
        "wave": _read(Wave, rtl),
        "synth": _read(SynthReport, synth),
        "vendor": _read(VendorReport, synth),
    }
    return ChipFacts.model_validate(tree, from_attributes=True)


def _read(record: type[T], folder: Path | None) -> T | None:
    return record.read(folder) if folder and (folder / record.FILE).exists() else None
