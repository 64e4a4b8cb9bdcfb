"""The chip of a registered model, by its own deployment and by its own command."""

import json
from pathlib import Path

import pytest
from conftest import Ran, Trivet
from prefect_api import PrefectApi

TASKS = {
    "version home", "check small-chip", "distil small-chip",
    "score student-float", "score student-fixed",
    "compile small-chip for C simulation", "score hls-csim",
    "compile small-chip to Verilog", "score alkaid", "synthesize small-chip",
    "compile small-chip for RTL simulation", "score rtl",
    "prove small-chip", "register small-chip",
}  # fmt: skip


@pytest.fixture(scope="module")
def chip(home_run: Ran, prefect: PrefectApi, clone: Path) -> Ran:
    deployment = prefect.ask("deployments/filter", deployments={"name": {"any_": ["fpga-build"]}})
    path = f"deployments/{deployment[0]['id']}/create_flow_run"
    run = prefect.ask(path, parameters={"model": "small@champion"}, state={"type": "SCHEDULED"})
    run = prefect.end(run["id"])
    assert run["state_name"] == "Completed", run["state"]["message"]
    return Ran(run["id"], clone / "runs" / run["name"])


def test_the_chip_of_the_champion_is_built_by_its_own_deployment(
    home_run: Ran, chip: Ran, prefect: PrefectApi
) -> None:
    assert chip.name.startswith("small-chip-")
    tasks = prefect.tasks(chip.id, len(TASKS) + 1)
    assert set(tasks) == TASKS | {f"report {chip.name}"}
    assert {task.name for task in tasks.values()} == {"Completed", "Cached"}
    assert [name for name, task in tasks.items() if task.name == "Cached"] == ["version home"]
    stages = {stage["backend"]: stage for stage in chip.json("parity.json")["stages"]}
    assert [*stages] == ["student-float", "student-fixed", "hls-csim", "alkaid", "rtl"]
    assert stages["rtl"]["bit_exact"]
    assert stages["rtl"]["value"] == stages["student-fixed"]["value"]
    weights = Path("student", "fixed.safetensors")
    assert (chip.folder / weights).read_bytes() == (home_run.folder / weights).read_bytes()
    assert "LUT" in (chip.folder / "report.html").read_text()


def test_the_command_builds_the_same_chip(chip: Ran, trivet: Trivet, prefect: PrefectApi) -> None:
    table = json.loads(trivet("fpga", "build", "small@champion", "--json").stdout)
    assert table == chip.json("parity.json")
    tasks = prefect.tasks(prefect.latest(chip.name)["id"], len(TASKS) + 1)
    assert {task.name for task in tasks.values()} == {"Cached"}
