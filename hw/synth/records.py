"""What synthesis says: cells of a chip that the design takes, the clock that it reaches.

Not here: how it was found out (open_tools.py, vendor.py), what a chip has (devices.py).
"""

from typing import Any, ClassVar

from pydantic import Field

from trivet.hw.record import Part, Record


class Area(Part):
    """Resources after Yosys, by kind: carry chains, multiplexers and `bram` in whole blocks of the
    device, so that half of one is 0.5. `cells`: how many of each type make them up.
    """

    lut: int
    lut_ram: int
    ff: int
    carry: int
    mux: int
    dsp: int
    bram: int | float
    cells: dict[str, int]
    seconds: float
    tool: str


class Clock(Part):
    """The clock that place and route reaches, and on what."""

    mhz: float
    device: str
    speed: str
    seed: int
    seconds: float
    tool: str


class SynthReport(Record):
    """synth.json: estimates for UltraScale+ (`xcup`) and ECP5. What could not be had is None, and
    `failures` says why, by its name.
    """

    FILE: ClassVar[str] = "synth.json"
    note: str
    xcup: Area | None
    ecp5: Area | None
    clock: Clock | None
    failures: dict[str, str]


def _optional() -> Any:
    """A field that is not in the file where it is None."""
    return Field(default=None, exclude_if=lambda value: value is None)


class VendorArea(Part):
    """A vendor's figures. Only Vivado says `lut_ram` and `carry`, only Quartus `alm`, only Vitis
    `cycles` and `interval`.
    """

    lut: int
    lut_ram: int | None = _optional()
    alm: int | None = _optional()
    ff: int
    carry: int | None = _optional()
    dsp: int
    bram: int | float
    mhz: float
    cycles: int | None = _optional()
    interval: int | None = _optional()
    tool: str
    seconds: float


class VendorReport(Record):
    """vendor.json: a report of each tool that ran; `failures` says in words what went wrong with
    the others that were found, `missing` which were not.
    """

    FILE: ClassVar[str] = "vendor.json"
    note: str
    failures: dict[str, str]
    missing: tuple[str, ...]
    vitis: VendorArea | None = _optional()
    vivado: VendorArea | None = _optional()
    quartus: VendorArea | None = _optional()
