"""What a Prefect server says of the product's runs: asked over HTTP, as its UI does."""

import time
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter, Retry

ENDED = ("COMPLETED", "FAILED", "CRASHED")


class TaskState(NamedTuple):
    """`persisted`: whether Prefect itself keeps what the task returned."""

    name: str
    message: str
    persisted: bool


class PrefectApi:
    def __init__(self, url: str) -> None:
        self.url = url
        # A server whose SQLite was locked answers 503; Prefect's own client asks again, too.
        patience = Retry(8, status_forcelist=[503], allowed_methods=None, backoff_factor=0.2)
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy
        self.session.mount("http://", HTTPAdapter(max_retries=patience))

    def ask(self, path: str, body: object = None, **fields: object) -> Any:
        """What it answers to a POST of these fields, or of another body."""
        body = fields if body is None else body
        reply = self.session.post(f"{self.url}/{path}", json=body, timeout=30)
        assert reply.ok, f"{path}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content else None

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
