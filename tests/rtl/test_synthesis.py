"""Open synthesis counts what a chip would hold, and whatever fails says so while the rest goes on.

Run: .venv/bin/pytest tests/rtl/test_synthesis.py
"""

import sys
from pathlib import Path

import pytest
import torch

from trivet.hw.synth import open_tools
from trivet.hw.synth.records import SynthReport

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
    report = open_tools.synthesize(verilog, tmp_path / "out")
    assert report.failures == {}
    xcup, ecp5, clock = report.xcup, report.ecp5, report.clock
    assert xcup and ecp5 and clock
    assert (xcup.lut, xcup.lut_ram, xcup.ff, xcup.carry) == (8, 16, 8, 2)
    assert (ecp5.ff, ecp5.carry) == (56, ecp5.cells["CCU2C"])
    assert ecp5.lut == 2 * ecp5.cells["CCU2C"] + ecp5.cells.get("LUT4", 0) >= 8
    assert xcup.dsp == xcup.bram == ecp5.dsp == ecp5.bram == 0
    assert 100 < clock.mhz < 1000
    assert (clock.device, clock.speed, clock.seed) == ("LFE5U-25F", "6", 1)
    assert "place-and-route by nextpnr, none for Xilinx" in report.note
    assert all(part.tool.split()[1] and part.seconds > 0 for part in (xcup, ecp5, clock))
    assert SynthReport.read(tmp_path / "out") == report
    for log in ("yosys-xcup.log", "yosys-ecp5.log", "nextpnr.log"):
        assert (tmp_path / "out" / log).stat().st_size > 1000


def test_what_fails_says_why_and_is_none(verilog: Path, tmp_path: Path) -> None:
    (verilog / "student.v").write_text("module student(; endmodule\n")
    report = open_tools.synthesize(verilog, tmp_path)
    assert report.xcup is report.ecp5 is report.clock is None
    for family in ("xcup", "ecp5"):
        assert f"yosys-{family}.log has what it said" in report.failures[family]
        assert "ERROR" in (tmp_path / f"yosys-{family}.log").read_text()
    assert "no ECP5 netlist" in report.failures["clock"]


def test_placing_that_does_not_end_leaves_the_rest(
    verilog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_tools, "PLACE_SECONDS", 0.2)
    report = open_tools.synthesize(verilog, tmp_path)
    assert report.xcup and report.xcup.lut == 8 and report.clock is None
    assert "stopped after 0.2 s" in report.failures["clock"]


def test_a_missing_package_is_named(
    verilog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])  # where installed packages are looked for
    report = open_tools.synthesize(verilog, tmp_path)
    assert report.failures["xcup"] == "pyosys is not installed: pip install pyosys"
