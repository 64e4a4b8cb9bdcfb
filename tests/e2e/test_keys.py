"""A change builds again what depends on it, and nothing else."""

import json
from typing import Any

from prefect_api import PrefectApi
from product import Ran, Trivet

BUILDS = ("tune mine", "merge mine", "export mine to ONNX")
BACKENDS = ("adapter", "merged", "onnx-fp32", "onnx-int8")
SCORES = [f"score {name}" for name in BACKENDS]
SCORES += [f"ask {name} without Trivet" for name in BACKENDS]
TASKS = 19


def states(trivet: Trivet, prefect: PrefectApi, mine_run: Ran, override: str) -> dict[str, Any]:
    """Each task's state in a run of that change."""
    table = json.loads(trivet("run", "mine.toml", override, "--json").stdout)
    assert table["run"] != mine_run.name
    tasks = prefect.tasks(prefect.latest(table["run"])["id"], TASKS)
    assert len(tasks) == TASKS
    return {name: task.name for name, task in tasks.items()}


def test_another_gate_builds_nothing(mine_run: Ran, trivet: Trivet, prefect: PrefectApi) -> None:
    state = states(trivet, prefect, mine_run, "gates.onnx_int8_points=50")
    changed = [name.split()[0] for name, state in state.items() if state == "Completed"]
    assert sorted(changed) == ["prove", "register", "report"]


def test_other_test_rows_are_scored_and_nothing_is_tuned(
    mine_run: Ran, trivet: Trivet, prefect: PrefectApi
) -> None:
    state = states(trivet, prefect, mine_run, "data.test=8")
    assert {state[name] for name in BUILDS} == {"Cached"}
    assert {state[name] for name in SCORES} == {"Completed"}
