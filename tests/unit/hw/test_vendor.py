"""Vendor tools: run where they are, their reports read; stand-ins on PATH write the reports here.

The reports are short files in the format of the real ones; no vendor's tool was run.
Run: .venv/bin/pytest tests/unit/hw/test_vendor.py
"""

import json
import os
from pathlib import Path

import pytest

from trivet.hw.synth import vendor
from trivet.hw.synth.records import VendorReport

CSYNTH = """<?xml version="1.0" encoding="UTF-8"?>
<profile>
<ReportVersion><Version>2023.2</Version></ReportVersion>
<UserAssignments>
<unit>ns</unit><ProductFamily>kintexuplus</ProductFamily><Part>xcku5p-ffvb676-2-e</Part>
<TopModelName>student</TopModelName><TargetClockPeriod>5.00</TargetClockPeriod>
</UserAssignments>
<PerformanceEstimates>
<PipelineType>yes</PipelineType>
<SummaryOfTimingAnalysis><unit>ns</unit><EstimatedClockPeriod>4.000</EstimatedClockPeriod>
</SummaryOfTimingAnalysis>
<SummaryOfOverallLatency><unit>clock cycles</unit>
<Best-caseLatency>9</Best-caseLatency><Average-caseLatency>9</Average-caseLatency>
<Worst-caseLatency>9</Worst-caseLatency><PipelineInitiationInterval>1</PipelineInitiationInterval>
<PipelineDepth>10</PipelineDepth><Interval-min>1</Interval-min><Interval-max>1</Interval-max>
</SummaryOfOverallLatency>
</PerformanceEstimates>
<AreaEstimates>
<Resources><BRAM_18K>3</BRAM_18K><DSP>2</DSP><FF>1850</FF><LUT>6120</LUT><URAM>0</URAM></Resources>
<AvailableResources><BRAM_18K>960</BRAM_18K><DSP>1824</DSP><FF>433920</FF><LUT>216960</LUT>
<URAM>64</URAM></AvailableResources>
</AreaEstimates>
</profile>
"""

UTILIZATION = """\
| Tool Version : Vivado v.2023.2 (lin64) Build 4029153 Fri Oct 13 20:13:54 MDT 2023
| Command      : report_utilization -file student_post_route_util.rpt
| Design       : student
| Device       : xcku5p-ffvb676-2-e
| Design State : Routed

1. CLB Logic
------------

+----------------------------+------+-------+------------+-----------+-------+
|          Site Type         | Used | Fixed | Prohibited | Available | Util% |
+----------------------------+------+-------+------------+-----------+-------+
| CLB LUTs                   | 2410 |     0 |          0 |    216960 |  1.11 |
|   LUT as Logic             | 2408 |     0 |          0 |    216960 |  1.11 |
|   LUT as Memory            |    2 |     0 |          0 |     99840 | <0.01 |
|     LUT as Distributed RAM |    0 |     0 |            |           |       |
|     LUT as Shift Register  |    2 |     0 |            |           |       |
| CLB Registers              | 2395 |     0 |          0 |    433920 |  0.55 |
|   Register as Flip Flop    | 2395 |     0 |          0 |    433920 |  0.55 |
|   Register as Latch        |    0 |     0 |          0 |    433920 |  0.00 |
| CARRY8                     |  511 |     0 |          0 |     27120 |  1.88 |
| F7 Muxes                   |    0 |     0 |          0 |    108480 |  0.00 |
+----------------------------+------+-------+------------+-----------+-------+

3. BLOCKRAM
-----------

+-------------------+------+-------+------------+-----------+-------+
|     Site Type     | Used | Fixed | Prohibited | Available | Util% |
+-------------------+------+-------+------------+-----------+-------+
| Block RAM Tile    |  0.5 |     0 |          0 |       480 |  0.10 |
|   RAMB36/FIFO*    |    0 |     0 |          0 |       480 |  0.00 |
|   RAMB18          |    1 |     0 |          0 |       960 |  0.10 |
| URAM              |    0 |     0 |          0 |        64 |  0.00 |
+-------------------+------+-------+------------+-----------+-------+

4. ARITHMETIC
-------------

+-----------+------+-------+------------+-----------+-------+
| Site Type | Used | Fixed | Prohibited | Available | Util% |
+-----------+------+-------+------------+-----------+-------+
| DSPs      |    0 |     0 |          0 |      1824 |  0.00 |
+-----------+------+-------+------------+-----------+-------+
"""

TIMING = """\
------------------------------------------------------------------------------------------------
| Design Timing Summary
| ---------------------
------------------------------------------------------------------------------------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      THS(ns)  \
THS Failing Endpoints  THS Total Endpoints     WPWS(ns)     TPWS(ns)  TPWS Failing Endpoints  \
TPWS Total Endpoints  \n\
    -------      -------  ---------------------  -------------------      -------      -------  \
---------------------  -------------------     --------     --------  ----------------------  \
--------------------  \n\
      6.000        0.000                      0                 2395        0.046        0.000  \
                    0                 2395        4.725        0.000                       0  \
                2396  \n\


All user specified timing constraints are met.
"""

FIT = """\
; Fitter Summary                                                                ;
+---------------------------------+---------------------------------------------+
; Fitter Status                   ; Successful - Sat Oct  3 02:16:57 2026        ;
; Quartus Prime Version           ; 25.1std.0 Build 1129 10/21/2025 SC Lite      ;
; Family                          ; Cyclone V                                    ;
; Device                          ; 5CSEBA6U23I7                                 ;
; Logic utilization (in ALMs)     ; 1,358 / 41,910 ( 3 % )                       ;
; Total registers                 ; 2405                                         ;
; Total block memory bits         ; 0 / 5,662,720 ( 0 % )                        ;
; Total RAM Blocks                ; 0 / 553 ( 0 % )                              ;
; Total DSP Blocks                ; 0 / 112 ( 0 % )                              ;
+---------------------------------+---------------------------------------------+
; Fitter Resource Usage Summary                                                 ;
; Combinational ALUT usage for logic                          ; 2,512 ;         ;
; Dedicated logic registers                                   ; 2,405 ;         ;
"""

STA = """\
; Slow 1100mV 100C Model Fmax Summary              ;
+------------+-----------------+------------+------+
; Fmax       ; Restricted Fmax ; Clock Name ; Note ;
+------------+-----------------+------------+------+
; 151.33 MHz ; 151.33 MHz      ; sys_clk    ;      ;
+------------+-----------------+------------+------+
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What vendor.py looks for in the two folders, here in one: scripts and constraints."""
    (tmp_path / "src").mkdir()
    (tmp_path / "build_prj.tcl").write_text("source project.tcl\n")
    (tmp_path / "project.tcl").write_text(
        'set project_name "student"\nset backend "vitis"\nset part "xcku5p-ffvb676-2-e"\n'
    )
    for name in ("vivado", "quartus"):
        (tmp_path / f"build_{name}_prj.tcl").write_text('set device "xcku5p-ffvb676-2-e"\n')
    (tmp_path / "src" / "student.xdc").write_text("set clock_period 10.0\n")
    return tmp_path


@pytest.fixture
def bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, besides the shell's own commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def stand_in(bin: Path, name: str, reports: dict[str, str], code: int = 0) -> None:
    """An executable that writes the reports into its working folder, as the tool would."""
    lines = ["#!/bin/sh", 'echo "$0 $@"']
    for path, text in reports.items():
        file = bin / f"{name}-{Path(path).name}"
        file.write_text(text)
        lines += [f'mkdir -p "{Path(path).parent}"', f'cp "{file}" "{path}"']
    (bin / name).write_text("\n".join([*lines, f"exit {code}"]) + "\n")
    (bin / name).chmod(0o755)


VIVADO = {
    "output_student/reports/student_post_route_util.rpt": UTILIZATION,
    "output_student/reports/student_post_route_timing.rpt": TIMING,
}


def test_without_any_tool_nothing_runs(project: Path, bin: Path) -> None:
    report = vendor.run(project, project)
    assert report.missing == ("vitis-run", "vivado", "quartus_sh")
    assert not report.failures and "never run with a real vendor tool" in report.note
    assert not {"vitis", "vivado", "quartus"} & set(json.loads(report.to_json()))


@pytest.mark.parametrize("name", ["vitis-run", "vitis_hls"])
def test_vitis_synthesizes_the_hls_project(
    project: Path, bin: Path, name: str, tmp_path: Path
) -> None:
    app = '<project xmlns="x"><solutions><solution name="solution1"/></solutions></project>'
    xml = "student_prj/solution1/syn/report/student_csynth.xml"
    stand_in(bin, name, {"student_prj/hls.app": app, xml: CSYNTH})
    report = vendor.run(project, None)
    report.write(tmp_path)
    assert VendorReport.read(tmp_path) == report
    figures = json.loads(report.to_json())["vitis"]
    assert figures.pop("seconds") >= 0
    assert figures == {
        "lut": 6120,
        "ff": 1850,
        "dsp": 2,
        "bram": 1.5,
        "mhz": 250.0,
        "cycles": 9,
        "interval": 1,
        "tool": "Vitis HLS, C synthesis",
    }
    assert "build_prj.tcl" in (project / "vitis.log").read_text()
    assert "synth 1 cosim 0" in (project / "build_opt.tcl").read_text()


def test_vivado_routes_the_verilog(project: Path, bin: Path) -> None:
    stand_in(bin, "vivado", VIVADO)
    area = vendor.run(None, project).vivado
    assert area
    assert area.mhz == 250.0  # 10 ns less 6 ns of slack
    assert (area.lut, area.lut_ram, area.ff, area.carry) == (2408, 2, 2395, 511)
    assert (area.dsp, area.bram, area.tool) == (0, 0.5, "Vivado v.2023.2")


def test_quartus_is_for_its_own_parts(project: Path, bin: Path) -> None:
    reports = "output_student/reports/student"
    stand_in(bin, "quartus_sh", {f"{reports}.fit.rpt": FIT, f"{reports}.sta.rpt": STA})
    assert "xcku5p-ffvb676-2-e, which is not" in vendor.run(None, project).failures["quartus"]
    (project / "build_quartus_prj.tcl").write_text('set device "5CSEBA6U23I7"\n')
    area = vendor.run(None, project).quartus
    assert area
    assert (area.lut, area.alm, area.ff, area.dsp) == (2512, 1358, 2405, 0)
    assert (area.bram, area.mhz, area.tool) == (0, 151.33, "Quartus Prime 25.1std.0")


def test_a_failing_tool_is_named_and_the_others_go_on(project: Path, bin: Path) -> None:
    stand_in(bin, "vitis-run", {}, code=3)
    stand_in(bin, "vivado", VIVADO)
    report = vendor.run(project, project)
    assert report.vivado and report.vivado.lut == 2408
    assert "vitis-run failed with 3" in report.failures["vitis"]
    assert str(project / "vitis.log") in report.failures["vitis"]


def test_a_report_of_another_format_is_said(project: Path, bin: Path) -> None:
    stand_in(bin, "vivado", {**VIVADO, next(iter(VIVADO)): "| Slice LUTs | 12 |\n"})
    stand_in(bin, "vitis-run", {})
    failures = vendor.run(project, project).failures
    assert "The report of vivado" in failures["vivado"] and "not understood" in failures["vivado"]
    assert "not understood" in failures["vitis"]


def test_a_tool_that_does_not_end_is_stopped(project: Path, bin: Path) -> None:
    (bin / "vivado").write_text("#!/bin/sh\nsleep 60\n")
    (bin / "vivado").chmod(0o755)
    report = vendor.run(None, project, timeout=0.3)
    assert "vivado was stopped after 0.3 s" in report.failures["vivado"]
