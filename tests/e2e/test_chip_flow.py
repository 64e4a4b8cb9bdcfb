"""The chip of a registered model, by its own deployment and by its own command."""

import json
from pathlib import Path

from prefect_api import PrefectApi
from product import Ran, Trivet

TASKS = {
    "version home", "check small-chip", "distil small-chip",
    "score student-float", "score student-fixed",
    "compile small-chip for C simulation", "score hls-csim",
    "compile small-chip to Verilog", "score alkaid", "synthesize small-chip",
    "compile small-chip for RTL simulation", "score rtl",
    "fit the majority label for small-chip", "fit logistic regression for small-chip",
    "prove small-chip", "register small-chip",
}  # fmt: skip


def test_the_chip_of_the_champion_is_built_by_its_own_deployment(
    home_run: Ran, chip_run: Ran, prefect: PrefectApi
) -> None:
    assert chip_run.name.startswith("small-chip-")
    tasks = prefect.tasks(chip_run.id, len(TASKS) + 1)
    assert set(tasks) == TASKS | {f"report {chip_run.name}"}
    assert {task.name for task in tasks.values()} == {"Completed", "Cached"}
    cached = {name for name, task in tasks.items() if task.name == "Cached"}
    assert cached == {"version home", "fit the majority label for small-chip"}
    stages = {stage["backend"]: stage for stage in chip_run.json("parity.json")["stages"]}
    assert [*stages] == ["student-float", "student-fixed", "hls-csim", "alkaid", "rtl"]
    assert stages["rtl"]["bit_exact"]
    assert stages["rtl"]["value"] == stages["student-fixed"]["value"]
    weights = Path("student", "fixed.safetensors")
    assert (chip_run.folder / weights).read_bytes() == (home_run.folder / weights).read_bytes()
    assert "LUT" in (chip_run.folder / "report.html").read_text()


def test_the_command_builds_the_same_chip(
    chip_run: Ran, trivet: Trivet, prefect: PrefectApi
) -> None:
    table = json.loads(trivet("fpga", "build", "small@champion", "--json").stdout)
    assert table == chip_run.json("parity.json")
    tasks = prefect.tasks(prefect.latest(chip_run.name)["id"], len(TASKS) + 1)
    assert {task.name for task in tasks.values()} == {"Cached"}
