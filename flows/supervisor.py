"""The process behind `trivet up`: it keeps its servers alive and ends them in order.

A plain Python process with default signals (`python -m trivet.flows.supervisor`), because workers
started by a shell in the background ignore SIGTERM. It restarts what dies and stops runs, then the
worker, then the servers, so that no record is lost.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .up import GRACE, POOL, answers, identity, ours, servers_of, state_folder

DRAIN = 3.0  # seconds the servers get to store what the stopped worker sent last
RESTARTS = 5  # in a row, each within STEADY seconds of the one before; then the child is given up
STEADY = 60.0

# The defaults suit thousands of runs; here a scheduled run should start within seconds.
SERVING = {
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONSAFEPATH": "1",
}
# A run whose process was killed along with its worker cannot say so: its heartbeat falls silent.
ZOMBIES = {
    "name": "Crash runs whose process is gone",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "threshold": 1,
        "within": 90,
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": [
            f"prefect.flow-run.{last}"
            for last in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed", "Paused")
        ],
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": "No heartbeat for 90 seconds: the process is gone.",
        }
    ],
}


@dataclass
class Child:
    """One supervised process, in a session of its own so that its own children end with it."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    ready: Callable[[], bool] = lambda: True
    process: subprocess.Popen | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    deaths: int = 0
    given_up: bool = False
    not_before: float = 0.0

    def tend(self) -> bool:
        """Start it, or start it again when it died; True if the state file needs writing."""
        now = time.monotonic()
        if self.process and self.process.poll() is not None:
            self.end()
            self.deaths = 1 if time.time() - self.identity["created"] > STEADY else self.deaths + 1
            self.process, self.given_up = None, self.deaths > RESTARTS
            self.not_before = now + 2 ** (self.deaths - 1)
            print(f"{self.name} died ({self.deaths} in a row)", flush=True)
            return True
        if self.process or self.given_up or now < self.not_before or not self.ready():
            return False
        with open(self.log, "a" if self.identity else "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", *self.command],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.identity = identity(self.process.pid)
        return True

    def end(self) -> None:
        """Wait for it within GRACE after SIGTERM; then its whole session goes."""
        if not self.process:
            return
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            print(f"{self.name} ignored SIGTERM for {GRACE:.0f} s", flush=True)
        with suppress(ProcessLookupError):  # it went with all its children
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _children(home: Path, state: dict[str, Any]) -> list[Child]:
    servers = servers_of(home, state)
    env = os.environ | SERVING | servers.environment()
    env |= {"PREFECT_SERVER_UI_API_URL": servers.prefect_api, "PWD": os.getcwd()}
    env.pop("PREFECT_PROFILE", None)  # profiles live in the PREFECT_HOME that we replace
    store = home / "mlflow"
    (store / "artifacts").mkdir(parents=True, exist_ok=True)
    host = ["--host", "127.0.0.1", "--port"]
    prefect = ["prefect", "server", "start", *host, str(state["ports"][0])]
    mlflow = ["mlflow", "server", *host, str(state["ports"][1]), "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}", "--serve-artifacts"]
    mlflow += ["--artifacts-destination", str(store / "artifacts")]
    # One run at a time: two tunings beside each other on one machine take longer than in a row.
    worker = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1"]
    logs = home / "logs"
    children = [
        Child("prefect", prefect, env, logs / "prefect.log"),
        Child("mlflow", mlflow, env, logs / "mlflow.log"),
        Child(
            "worker",
            worker,
            env | {"TRIVET_UP_RUN": str(home)},
            logs / "worker.log",
            lambda: _prepared(servers.prefect_api),
        ),
    ]
    return children if state["worker"] else children[:2]


def _prepared(api: str) -> bool:
    """True once the Prefect server answers and looks for runs that died silently."""
    if not answers(f"{api}/health"):
        return False
    wanted = {"automations": {"name": {"any_": [ZOMBIES["name"]]}}}
    known = answers(f"{api}/automations/filter", wanted)
    return bool(json.loads(known or "[]") or answers(f"{api}/automations/", ZOMBIES))


def _supervise(root: Path, ports: list[int], worker: bool) -> None:
    """Run the children until SIGTERM or SIGINT, then stop the worker, drain, stop the servers."""
    stopping: list[int] = []
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    home = state_folder(root)
    state = {"ports": ports, "worker": worker, "supervisor": identity(os.getpid()), "children": {}}
    children = _children(home, state)
    while not stopping:
        if any([child.tend() for child in children]):
            state["children"] = {
                c.name: c.identity | {"deaths": c.deaths, "given_up": c.given_up}
                for c in children
                if c.identity
            }
            partial = home / "up.json.partial"
            partial.write_text(json.dumps(state))
            partial.replace(home / "up.json")
        time.sleep(0.2)
    _stop(home, children)


def _stop(home: Path, children: list[Child]) -> None:
    """First the runs, which still report that they crashed, then the worker, then the servers.

    The worker would kill its runs at once, and they would be shown as running for ever.
    """
    workers = [child.process.pid for child in children[2:] if child.process]
    runs = [p for p in ours(home, "TRIVET_UP_RUN") if p.pid not in workers]
    for run in runs:
        with suppress(psutil.NoSuchProcess):
            run.terminate()
    psutil.wait_procs(runs, timeout=GRACE)
    time.sleep(1 if runs else 0)  # the worker has the last word about them
    _end(children[2:])
    time.sleep(DRAIN)
    _end(children[:2])


def _end(children: list[Child]) -> None:
    for child in children:
        if child.process:
            child.process.terminate()
    for child in children:
        child.end()


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]), [int(p) for p in sys.argv[2:4]], "worker" in sys.argv[4:])
