"""The local servers: Prefect, MLflow and a worker, under one supervisor.

A flow run without a server loses most of its records, so Trivet never runs without one. `up` starts
what is missing and returns at once when it is there; everything it leaves lies in `.trivet/`.

Not here: keeping them alive (`supervisor.py`), what both know (`server_state.py`), schedules
(`schedule.py`), servers for a team (infra/), authentication, anything that listens beyond
127.0.0.1.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import psutil

from trivet import UserError
from trivet.flows.server_state import (
    STOP_TIMEOUT,
    WORK_POOL,
    Servers,
    ServerState,
    http_get,
    owned_processes,
    state_folder,
)

__all__ = ["ServerStatus", "Servers", "connect", "down", "status", "up"]

START_TIMEOUT = 120.0  # seconds until both servers must answer


@dataclass(frozen=True)
class ServerStatus:
    """What `trivet status` says of prefect, mlflow or worker; `since` is local ISO time.

    Only the worker has a work `pool` and is `online` (the Prefect server heard from it lately).
    """

    name: str
    url: str | None = None
    pid: int | None = None
    healthy: bool = False
    since: str | None = None
    pool: str | None = None
    online: bool | None = None


def up(
    root: Path,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    worker: bool = True,
) -> Servers:
    """The local servers of this workspace, started if they do not run; returns once both answer.

    Ports: the arguments, else TRIVET_PREFECT_PORT and TRIVET_MLFLOW_PORT, else 4200 and 5000;
    servers that already run keep theirs. The worker may come a few seconds after the return.
    Raises UserError: a port is taken, or a server does not answer within two minutes.
    """
    home = state_folder(root)
    with _lock(home):
        state = ServerState.read(home)
        if not state or not state.supervisor.process() or _wait_until_healthy(home):
            down(root)
            ports = [
                _port("prefect", "TRIVET_PREFECT_PORT", prefect_port, 4200),
                _port("mlflow", "TRIVET_MLFLOW_PORT", mlflow_port, 5000),
            ]
            supervisor = _start_supervisor(root, home, ports, worker)
            if culprit := _wait_until_healthy(home, supervisor):
                error = _start_error(home, culprit)
                down(root)
                raise error
            state = ServerState.read(home)
    assert state
    if worker and not state.worker:
        raise UserError(
            "The servers run without a worker, so nothing would run on schedule: stop them with "
            "`trivet down`, then start them with `trivet up`."
        )
    return state.servers(home)


def connect(root: Path) -> Servers:
    """The servers named by PREFECT_API_URL and MLFLOW_TRACKING_URI, else this workspace's own.

    Raises UserError: PREFECT_API_URL is set but nothing answers there, or it is set alone.
    """
    api, mlflow = (os.environ.get(k, "") for k in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"))
    if not api:
        local = up(root)
        return replace(local, mlflow_url=mlflow) if mlflow else local
    if not mlflow:
        raise UserError(
            f"PREFECT_API_URL is {api} but MLFLOW_TRACKING_URI is not set: name the team's MLflow "
            "server too, or unset both to use the local servers."
        )
    api = api.rstrip("/")
    if http_get(f"{api}/health", seconds=5) is None:
        raise UserError(
            f"Nothing answers at PREFECT_API_URL = {api}: start that server, or unset the variable "
            "to use the local one."
        )
    home = os.environ.get("PREFECT_HOME") or str(state_folder(root) / "prefect")
    return Servers(api.removesuffix("/api"), api, mlflow, home)


def down(root: Path) -> list[str]:
    """Stop this workspace's servers, worker and scheduled runs; returns the names of what it ended.

    The supervisor stops its children in order; whatever an earlier kill -9 left over follows.
    """
    home = state_folder(root)
    state = ServerState.read(home)
    names = [name for name, child in state.children.items() if child.process()] if state else []
    if supervisor := state and state.supervisor.process():
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=3 * STOP_TIMEOUT)
    orphans = owned_processes(home)
    names = names or [f"process {orphan.pid}" for orphan in orphans]
    for orphan in orphans:
        with suppress(psutil.NoSuchProcess):
            orphan.terminate()
    for orphan in psutil.wait_procs(orphans, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    (home / "up.json").unlink(missing_ok=True)
    return names


def status(root: Path) -> list[ServerStatus]:
    """One record each for prefect, mlflow and worker, also where they do not run."""
    home = state_folder(root)
    state = ServerState.read(home)
    servers = state.servers(home) if state else None
    worker = _status(state, "worker", None)
    return [
        _status(state, "prefect", servers.prefect_url if servers else None),
        _status(state, "mlflow", servers.mlflow_url if servers else None),
        replace(worker, pool=WORK_POOL, online=worker.healthy),
    ]


def _status(state: ServerState | None, name: str, url: str | None) -> ServerStatus:
    child = state.children.get(name) if state else None
    process = child.process() if child else None
    if not state or not process:
        return ServerStatus(name, url)
    healthy = _worker_online(state) if name == "worker" else http_get(state.health_urls()[name])
    since = datetime.fromtimestamp(process.create_time()).astimezone()
    return ServerStatus(name, url, process.pid, bool(healthy), since.isoformat(timespec="seconds"))


def _worker_online(state: ServerState) -> bool:
    url = f"http://127.0.0.1:{state.ports[0]}/api/work_pools/{WORK_POOL}/workers/filter"
    return any(w["status"] == "ONLINE" for w in json.loads(http_get(url, {}) or "[]"))


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Two commands at the same moment must not start two sets of servers."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "up.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _port(server: str, variable: str, argument: int | None, default: int) -> int:
    text = str(argument or os.environ.get(variable) or default)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UserError(f"{variable} = {text!r} is not a port: use a number from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise UserError(
                f"Port {text} for the {server} server cannot be used ({error.strerror}): another "
                f"program has it. Choose another one with {variable}=<port> or "
                f"`trivet up --{server}-port <port>`."
            ) from None
    return int(text)


def _start_supervisor(root: Path, home: Path, ports: list[int], worker: bool) -> subprocess.Popen:
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "trivet.flows.supervisor", str(root.resolve())]
    with open(logs / "supervisor.log", "w") as log:
        return subprocess.Popen(
            [*command, *map(str, ports), *["worker"] * worker],
            env=os.environ | {"TRIVET_UP": str(home)},
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_healthy(home: Path, supervisor: subprocess.Popen | None = None) -> str | None:
    """None once both servers answer, else the name of what gave up, ended or stayed silent.

    `supervisor`: the process that was just started, for as long as no state file names it.
    """
    deadline = time.monotonic() + START_TIMEOUT
    silent = ["supervisor"]
    while time.monotonic() < deadline:
        state = ServerState.read(home)
        if state:
            for name, child in state.children.items():
                if child.given_up:
                    return name
            silent = [name for name, url in state.health_urls().items() if not http_get(url)]
            if not silent:
                return None
            if not state.supervisor.process():
                return "supervisor"
        elif supervisor and supervisor.poll() is not None:
            return "supervisor"
        time.sleep(0.1)
    return silent[0]


def _start_error(home: Path, name: str) -> UserError:
    log = home / "logs" / f"{name}.log"
    lines = log.read_text(errors="replace").strip().splitlines()[-8:] if log.exists() else []
    return UserError(
        f"The {name} did not come up within {START_TIMEOUT:.0f} seconds or ended again; all "
        f"servers are stopped. Mend what {log} says and try again; its last lines: "
        + " | ".join(lines)
    )
