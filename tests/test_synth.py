"""Open synthesis counts what a chip would hold, and whatever fails says so while the rest goes on.

Run: .venv/bin/pytest tests/test_synth.py
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from trivet import UserError
from trivet.hw import synth

torch.set_num_threads(1)

# out = a - b, four cycles later: 8 LUTs with their carry and 8 registers; what is three cycles long
# becomes 16 shift registers, which xcup has in LUTs
DESIGN = """
module student(input clk, input [15:0] model_inp, output reg [7:0] model_out);
  reg [15:0] x, y, z;
  always @(posedge clk) begin
    x <= model_inp; y <= x; z <= y;
    model_out <= z[7:0] - z[15:8];
  end
endmodule
"""


@pytest.fixture
def verilog(tmp_path: Path) -> Path:
    folder = tmp_path / "with space" / "src"
    folder.mkdir(parents=True)
    (folder / "student.v").write_text(DESIGN)
    return folder


def test_a_subtractor_is_counted_placed_and_timed(verilog: Path, tmp_path: Path) -> None:
    found = synth.synthesise(verilog, tmp_path / "out")
    assert found["failures"] == {}
    xcup, ecp5, clock = found["xcup"], found["ecp5"], found["clock"]
    assert (xcup["lut"], xcup["lut_ram"], xcup["ff"], xcup["carry"]) == (8, 16, 8, 2)
    assert (ecp5["ff"], ecp5["carry"]) == (56, ecp5["cells"]["CCU2C"])
    assert ecp5["lut"] == 2 * ecp5["cells"]["CCU2C"] + ecp5["cells"].get("LUT4", 0) >= 8
    assert xcup["dsp"] == xcup["bram"] == ecp5["dsp"] == ecp5["bram"] == 0
    assert 100 < clock["mhz"] < 1000
    assert (clock["device"], clock["speed"], clock["seed"]) == ("LFE5U-25F", "6", 1)
    assert "place-and-route by nextpnr, none for Xilinx" in found["note"]
    assert all(part["tool"].split()[1] and part["seconds"] > 0 for part in (xcup, ecp5, clock))
    assert json.loads((tmp_path / "out" / "synth.json").read_text()) == found
    for log in ("yosys-xcup.log", "yosys-ecp5.log", "nextpnr.log"):
        assert (tmp_path / "out" / log).stat().st_size > 1000


def test_inverters_and_carry_cells_take_luts() -> None:
    cells = {"LUT2": 5, "LUT6": 2, "INV": 3, "SRL16E": 4, "FDRE": 9, "CARRY4": 2, "RAMB18E2": 1}
    found = synth.count(cells | {"$scopeinfo": 7})
    assert (found["lut"], found["lut_ram"], found["ff"], found["carry"]) == (10, 4, 9, 2)
    assert found["bram"] == 0.5 and found["cells"] == cells
    found = synth.count({"LUT4": 5, "CCU2C": 3, "PFUMX": 1, "TRELLIS_FF": 2, "MULT18X18D": 1})
    assert (found["lut"], found["carry"], found["mux"], found["ff"], found["dsp"]) == (
        11,
        3,
        1,
        2,
        1,
    )


def test_what_fails_says_why_and_is_none(verilog: Path, tmp_path: Path) -> None:
    (verilog / "student.v").write_text("module student(; endmodule\n")
    found = synth.synthesise(verilog, tmp_path)
    assert found["xcup"] is found["ecp5"] is found["clock"] is None
    for family in ("xcup", "ecp5"):
        assert f"yosys-{family}.log has what it said" in found["failures"][family]
        assert "ERROR" in (tmp_path / f"yosys-{family}.log").read_text()
    assert "no ECP5 netlist" in found["failures"]["clock"]


def test_placing_that_does_not_end_leaves_the_rest(
    verilog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth, "PLACE_SECONDS", 0.2)
    found = synth.synthesise(verilog, tmp_path)
    assert found["xcup"]["lut"] == 8 and found["clock"] is None
    assert "stopped after 0.2 s" in found["failures"]["clock"]


def test_a_missing_package_is_named(
    verilog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])  # where installed packages are looked for
    found = synth.synthesise(verilog, tmp_path)
    assert found["failures"]["xcup"] == "pyosys is not installed: pip install pyosys"


def test_a_design_for_no_ecp5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="60000 LUTs are more"):
        synth.clock(tmp_path, 60_000)


def test_capacity_is_known_or_none() -> None:
    whole = synth.capacity("xcku5p-ffvb676-2-e")
    assert whole and (whole["lut"], whole["ff"], whole["dsp"]) == (216_960, 433_920, 1_824)
    small = synth.capacity("LFE5U-25F-6BG381C")
    assert small and small["lut"] == 24_288
    assert synth.capacity("xcvu13p-flga2577-2-e") is None
