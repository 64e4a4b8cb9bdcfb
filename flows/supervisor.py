"""The process behind `trivet up`: it keeps its servers alive and ends them in order.

A plain Python process with default signals (`python -m trivet.flows.supervisor`), because workers
started by a shell in the background ignore SIGTERM. It restarts what dies and stops runs, then the
worker, then the servers, so that no record is lost.

Neither library does this. `prefect server start --background` writes a process id and returns: it
restarts nothing, keeps no log, refuses to start again after a kill -9, and `prefect server stop`
signals whoever has that id by then. A worker that is stopped kills its runs and leaves them
"Running" for ever; a served flow marks them "Cancelled", as if a person had asked for it, and has
no work pool that a team's worker could share. `mlflow server` knows no background at all.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from trivet.flows.server_state import (
    STOP_TIMEOUT,
    WORK_POOL,
    ProcessRecord,
    ServerState,
    http_get,
    owned_processes,
    state_folder,
)

DRAIN_SECONDS = 3.0  # what the servers get to store what the stopped worker sent last
MAX_RESTARTS = 5  # in a row, each within STEADY_SECONDS of the one before; then it is given up
STEADY_SECONDS = 60.0

# The defaults suit thousands of runs; here a scheduled run should start within seconds.
SERVER_SETTINGS = {
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # A silence that ended unseen (a laptop asleep) is forgotten after 60 s, and its run never ends.
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P1D",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONSAFEPATH": "1",
}
# A run whose process was killed along with its worker cannot say so: its heartbeat falls silent.
CRASH_AUTOMATION = {
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
    record: ProcessRecord | None = None
    not_before: float = 0.0  # on the monotonic clock

    def ensure_running(self) -> bool:
        """Start it, or start it again when it died; True if the state file needs writing."""
        now, record = time.monotonic(), self.record
        if self.process and record and self.process.poll() is not None:
            self.wait_or_kill()
            steady = time.time() - record.created > STEADY_SECONDS
            record.deaths = 1 if steady else record.deaths + 1
            record.given_up = record.deaths > MAX_RESTARTS
            self.process, self.not_before = None, now + 2 ** (record.deaths - 1)
            print(f"{self.name} died ({record.deaths} in a row)", flush=True)
            return True
        if self.process or (record and record.given_up) or now < self.not_before:
            return False
        if not self.ready():
            return False
        with open(self.log, "a" if record else "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", *self.command],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.record = ProcessRecord.of(self.process.pid)
        self.record.deaths = record.deaths if record else 0
        return True

    def wait_or_kill(self) -> None:
        """Wait for it within STOP_TIMEOUT after SIGTERM; then its whole session goes."""
        if not self.process:
            return
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            print(f"{self.name} ignored SIGTERM for {STOP_TIMEOUT:.0f} s", flush=True)
        with suppress(ProcessLookupError):  # it went with all its children
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _children(home: Path, state: ServerState) -> list[Child]:
    """Prefect, MLflow and, where asked for, the worker, in this order."""
    servers, logs = state.servers(home), home / "logs"
    env = os.environ | SERVER_SETTINGS | servers.environment()
    env |= {"PREFECT_SERVER_UI_API_URL": servers.prefect_api, "PWD": os.getcwd()}
    env.pop("PREFECT_PROFILE", None)  # profiles live in the PREFECT_HOME that we replace
    host = ["--host", "127.0.0.1", "--port"]
    prefect = ["prefect", "server", "start", *host, str(state.ports[0])]
    mlflow = ["mlflow", "server", *host, str(state.ports[1]), *_mlflow_storage(home / "mlflow")]
    # One run at a time: two tunings beside each other on one machine take longer than in a row.
    worker = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    children = [
        Child("prefect", prefect, env, logs / "prefect.log"),
        Child("mlflow", mlflow, env, logs / "mlflow.log"),
        Child(
            "worker",
            [*worker, "--limit", "1"],
            env | {"TRIVET_UP_RUN": str(home)},
            logs / "worker.log",
            lambda: _install_crash_automation(servers.prefect_api),
        ),
    ]
    return children if state.worker else children[:2]


def _mlflow_storage(folder: Path) -> list[str]:
    """Options: records in SQLite, artifacts in a plain folder that a local client writes itself.

    A file URI as the root: nothing is copied through HTTP, and a client may link files instead.
    Experiments older than that keep their `mlflow-artifacts:` location in the same folder, so the
    server goes on serving that as well.
    """
    artifacts = folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    return [
        "--workers=1",
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
        f"--default-artifact-root={artifacts.as_uri()}",
        "--serve-artifacts",
        f"--artifacts-destination={artifacts}",
    ]


def _install_crash_automation(api: str) -> bool:
    """True once the Prefect server answers and looks for runs that died silently."""
    if not http_get(f"{api}/health"):
        return False
    by_name = {"automations": {"name": {"any_": [CRASH_AUTOMATION["name"]]}}}
    known = json.loads(http_get(f"{api}/automations/filter", by_name) or "[]")
    return bool(known or http_get(f"{api}/automations/", CRASH_AUTOMATION))


def _supervise(root: Path, ports: tuple[int, int], worker: bool) -> None:
    """Run the children until SIGTERM or SIGINT, then stop the worker, drain, stop the servers."""
    signals: list[int] = []
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
    home = state_folder(root)
    state = ServerState(ports, worker, ProcessRecord.of(os.getpid()))
    children = _children(home, state)
    while not signals:
        if any([child.ensure_running() for child in children]):
            state.children = {c.name: c.record for c in children if c.record}
            state.write(home)
        time.sleep(0.2)
    _stop(home, children)


def _stop(home: Path, children: list[Child]) -> None:
    """First the runs, which still report that they crashed, then the worker, then the servers.

    The worker would kill its runs at once, and they would be shown as running for ever.
    """
    workers = [child.process.pid for child in children[2:] if child.process]
    runs = [p for p in owned_processes(home, "TRIVET_UP_RUN") if p.pid not in workers]
    for run in runs:
        with suppress(psutil.NoSuchProcess):
            run.terminate()
    psutil.wait_procs(runs, timeout=STOP_TIMEOUT)
    time.sleep(1 if runs else 0)  # the worker has the last word about them
    _terminate(children[2:])
    time.sleep(DRAIN_SECONDS)
    _terminate(children[:2])


def _terminate(children: list[Child]) -> None:
    for child in children:
        if child.process:
            child.process.terminate()
    for child in children:
        child.wait_or_kill()


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])), "worker" in sys.argv[4:])
