"""What a Prefect server says of the product's runs: asked over HTTP, as its UI does."""

import json
import time
import urllib.request
from typing import Any, NamedTuple

ENDED = ("COMPLETED", "FAILED", "CRASHED")


class TaskState(NamedTuple):
    """`persisted`: whether Prefect itself keeps what the task returned."""

    name: str
    message: str
    persisted: bool


class PrefectApi:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **body: object) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def flow_run(self, run_id: str) -> dict[str, Any]:
        return self.ask("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})[0]  # type: ignore[no-any-return]

    def latest(self, name: str) -> dict[str, Any]:
        """The newest flow run of that name."""
        runs = self.ask("flow_runs/filter", flow_runs={"name": {"any_": [name]}})
        return max(runs, key=lambda run: run["created"])  # type: ignore[no-any-return]

    def end(self, run_id: str) -> dict[str, Any]:
        """A flow run, once it has ended."""
        limit = time.monotonic() + 900
        while (run := self.flow_run(run_id))["state_type"] not in ENDED:
            assert time.monotonic() < limit, run
            time.sleep(1)
        return run

    def tasks(self, run_id: str, count: int) -> dict[str, TaskState]:
        """Each task's final state; the server hears of tasks seconds after they end, so an answer
        with fewer of them than a run has is only early.
        """
        limit = time.monotonic() + 60
        while True:
            runs = self.ask("task_runs/filter", task_runs={"flow_run_id": {"any_": [run_id]}})
            ended = all(run["state_type"] == "COMPLETED" for run in runs)
            if (ended and len(runs) >= count) or time.monotonic() > limit:
                return {run["name"]: _state(run["state"]) for run in runs}
            time.sleep(1)


def _state(state: dict[str, Any]) -> TaskState:
    return TaskState(state["name"], state["message"] or "", state["data"] is not None)
