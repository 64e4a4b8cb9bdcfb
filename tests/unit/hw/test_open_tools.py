"""Cells are counted as a chip has them, and a part's capacity is known or said to be unknown.

Run: .venv/bin/pytest tests/unit/hw/test_open_tools.py
"""

from pathlib import Path

import pytest

from trivet.hw.errors import DesignError
from trivet.hw.synth.devices import capacity
from trivet.hw.synth.open_tools import clock, count


def test_inverters_and_carry_cells_take_luts() -> None:
    cells = {"LUT2": 5, "LUT6": 2, "INV": 3, "SRL16E": 4, "FDRE": 9, "CARRY4": 2, "RAMB18E2": 1}
    area = count(cells | {"$scopeinfo": 7}, 1.0, "yosys")
    assert (area.lut, area.lut_ram, area.ff, area.carry) == (10, 4, 9, 2)
    assert area.bram == 0.5 and area.cells == cells
    area = count(
        {"LUT4": 5, "CCU2C": 3, "PFUMX": 1, "TRELLIS_FF": 2, "MULT18X18D": 1}, 1.0, "yosys"
    )
    assert (area.lut, area.carry, area.mux, area.ff, area.dsp) == (
        11,
        3,
        1,
        2,
        1,
    )


def test_a_design_for_no_ecp5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match="60000 LUTs are more"):
        clock(tmp_path, 60_000)


def test_capacity_is_known_or_none() -> None:
    whole = capacity("xcku5p-ffvb676-2-e")
    assert whole and (whole["lut"], whole["ff"], whole["dsp"]) == (216_960, 433_920, 1_824)
    small = capacity("LFE5U-25F-6BG381C")
    assert small and small["lut"] == 24_288
    assert capacity("xcvu13p-flga2577-2-e") is None
