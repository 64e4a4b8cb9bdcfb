"""fpga.json of a run: what is known of the student, and of the chip that it became.

Console, page, HTTP and tests read it without the tools that made a chip. Its parts are named as in
the records of `trivet.hw`, whose files (rtl.json, synth.json, …) lie in the run's folder and have
more: here is what is said of a chip, and what else those files hold is passed over.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trivet.records.record import Record
from trivet.records.student import StudentFacts


class Part(BaseModel):
    """A piece of a chip's facts; made from a tree of JSON or from a record of `trivet.hw`."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class DefaultPrecision(Part):
    """The same weights with hls4ml's default type everywhere: on how many of the rows any logit, on
    how many the answer is another.
    """

    precision: str
    rows: int
    logits_differ: int
    answers_differ: int


class LayerCost(Part):
    layer: str
    cost: float


class Design(Part):
    """The Verilog. `cycles` from a row to its logits and `interval` to the next row, as measured in
    simulation; the compiler's `cost`, LUTs, by layer too.
    """

    cycles: int
    interval: int
    cost: float
    layers: list[LayerCost]


class Wave(Part):
    """Values of each signal, one a cycle; the row is on the port in the `marked` one."""

    marked: int
    answered: int
    signals: dict[str, list[int | float]]


class Area(Part):
    lut: int
    ff: int
    dsp: int
    bram: int | float


class Clock(Part):
    mhz: float
    device: str
    speed: str


class Synthesis(Part):
    """Estimates by open tools; what could not be had is None, and `failures` says why, by name."""

    xcup: Area | None
    ecp5: Area | None
    clock: Clock | None
    failures: dict[str, str]


class VendorArea(Area):
    mhz: float
    tool: str


class Vendor(Part):
    """What each vendor's tool that ran has reported, and why others did not."""

    note: str
    failures: dict[str, str]
    vitis: VendorArea | None = None
    vivado: VendorArea | None = None
    quartus: VendorArea | None = None

    @property
    def areas(self) -> list[VendorArea]:
        return [area for area in (self.vitis, self.vivado, self.quartus) if area]


class ChipFacts(Record):
    """What was not made is None. Whether the forms are equal: the parity table says."""

    file: ClassVar[str] = "fpga.json"
    newest: ClassVar[int] = 2
    version: int = 2

    part: str
    student: StudentFacts
    default_precision: DefaultPrecision | None
    design: Design | None
    wave: Wave | None
    synth: Synthesis | None
    vendor: Vendor | None

    @classmethod
    def upgrade(cls, tree: Any) -> dict[str, Any]:
        """Version 1 held the student's facts among its own, and repeated the parity table."""
        if "student" in tree:
            return tree
        own = {"part", "default_precision", "wave", "synth", "vendor"}
        student = {k: value for k, value in tree.items() if k not in {*own, "rtl", "ways"}}
        new = {key: tree.get(key) for key in own}
        return new | {"student": student, "design": tree.get("rtl")}
