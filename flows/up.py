"""The local servers: Prefect, MLflow and a worker, under one supervisor.

A flow run without a server loses most of its records, so Trivet never runs without one. `up` starts
what is missing and returns at once when it is there; everything it leaves lies in `.trivet/`. Each
process carries `.trivet/`'s path in its environment (`TRIVET_UP`): that mark, not a process id that
the system may have given away, says what is ours.

Not here: keeping them alive (`supervisor.py`), schedules (`schedule.py`), servers for a team
(infra/), authentication, anything that listens beyond 127.0.0.1.
"""

import fcntl
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from .. import UserError

POOL = "trivet"
START_LIMIT = 120.0  # seconds until both servers must answer
GRACE = 20.0  # seconds a child gets between SIGTERM and SIGKILL

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True)
class Servers:
    """Where the servers are; `home` is PREFECT_HOME.

    `pids`: name → process id; empty for servers that are not ours, the worker's may still lack.
    """

    prefect_url: str
    prefect_api: str
    mlflow_url: str
    home: str
    pids: dict[str, int] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Variables to put into os.environ before prefect or mlflow is imported."""
        proxied = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        direct = ",".join(filter(None, [proxied, "127.0.0.1,localhost"]))
        return QUIET | {
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_HOME": self.home,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }


# ------------------------------------------------------------------ start, stop, look


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
    with _locked(home):
        state = _state(home)
        if not _alive(state.get("supervisor")) or _wait(home):
            down(root)
            ports = [
                _port("prefect", "TRIVET_PREFECT_PORT", prefect_port, 4200),
                _port("mlflow", "TRIVET_MLFLOW_PORT", mlflow_port, 5000),
            ]
            if failed := _wait(home, _spawn(root, home, ports, worker)):
                error = _failure(home, failed)
                down(root)
                raise error
        state = _state(home)
    if worker and not state["worker"]:
        raise UserError(
            "The servers run without a worker, so nothing would run on schedule: stop them with "
            "`trivet down`, then start them with `trivet up`."
        )
    return servers_of(home, state)


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
    if answers(f"{api}/health", seconds=5) is None:
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
    state = _state(home)
    ended = [name for name, child in state.get("children", {}).items() if _alive(child)]
    if supervisor := _alive(state.get("supervisor")):
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=3 * GRACE)
    left = ours(home)
    ended += [f"process {p.pid}" for p in left if not ended]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    (home / "up.json").unlink(missing_ok=True)
    return ended


def status(root: Path) -> list[dict[str, Any]]:
    """One row each for prefect, mlflow and worker: name, url, pid, healthy, since (local ISO time).

    The worker's row also has `pool` and `online` (the Prefect server heard from it lately).
    """
    home = state_folder(root)
    state = _state(home)
    servers = servers_of(home, state) if state else None
    urls = {"prefect": servers.prefect_url, "mlflow": servers.mlflow_url} if servers else {}
    rows: list[dict[str, Any]] = []
    for name in ("prefect", "mlflow", "worker"):
        alive = _alive(state.get("children", {}).get(name))
        row: dict[str, Any] = {
            "name": name,
            "url": urls.get(name),
            "pid": alive.pid if alive else None,
        }
        row["healthy"] = alive is not None and (
            _online(state) if name == "worker" else bool(answers(_health(state)[name]))
        )
        started = datetime.fromtimestamp(alive.create_time()).astimezone() if alive else None
        row["since"] = started.isoformat(timespec="seconds") if started else None
        rows.append(row)
    rows[-1] |= {"pool": POOL, "online": rows[-1]["healthy"]}
    return rows


def state_folder(root: Path) -> Path:
    return root.resolve() / ".trivet"


def _state(home: Path) -> dict[str, Any]:
    """What the supervisor last wrote, or {} where none ever ran."""
    try:
        return json.loads((home / "up.json").read_text())
    except FileNotFoundError:
        return {}


def servers_of(home: Path, state: dict[str, Any]) -> Servers:
    url = f"http://127.0.0.1:{state['ports'][0]}"
    pids = {name: child["pid"] for name, child in state["children"].items()}
    pids["supervisor"] = state["supervisor"]["pid"]
    mlflow = f"http://127.0.0.1:{state['ports'][1]}"
    return Servers(url, f"{url}/api", mlflow, str(home / "prefect"), pids)


def _health(state: dict[str, Any]) -> dict[str, str]:
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in state["ports"])
    return {"prefect": f"{prefect}/api/health", "mlflow": f"{mlflow}/health"}


def answers(url: str, body: Any = None, seconds: float = 2) -> bytes | None:
    """The body of a 200 answer; b"" for another answer of a living server; None for silence."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    direct = [urllib.request.ProxyHandler({})] if "//127.0.0.1:" in url else []
    opener = urllib.request.build_opener(*direct)
    try:
        with opener.open(request, timeout=seconds) as answer:
            return answer.read()
    except urllib.error.HTTPError:
        return b""
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _online(state: dict[str, Any]) -> bool:
    url = f"http://127.0.0.1:{state['ports'][0]}/api/work_pools/{POOL}/workers/filter"
    return any(w["status"] == "ONLINE" for w in json.loads(answers(url, {}) or "[]"))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Two commands at the same moment must not start two sets of servers."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "up.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _port(name: str, variable: str, asked: int | None, default: int) -> int:
    text = str(asked or os.environ.get(variable) or default)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UserError(f"{variable} = {text!r} is not a port: use a number from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise UserError(
                f"Port {text} for the {name} server cannot be used ({error.strerror}): another "
                f"program has it. Choose another one with {variable}=<port> or "
                f"`trivet up --{name}-port <port>`."
            ) from None
    return int(text)


# ------------------------------------------------------------------ processes


def identity(pid: int) -> dict[str, Any]:
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def _alive(identity: dict[str, Any] | None) -> psutil.Process | None:
    """The process, unless it ended or its id now belongs to another one."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(identity["pid"]) if identity else None
        # A stepped clock moves the start time that the system reports, by a second at most.
        if identity and process and abs(process.create_time() - identity["created"]) < 2:
            return None if process.status() == psutil.STATUS_ZOMBIE else process
    return None


def ours(home: Path, mark: str = "TRIVET_UP") -> list[psutil.Process]:
    """Every living process that carries this workspace's mark, this one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(mark) == str(home):
                found.append(process)
        except psutil.Error:
            continue  # ended meanwhile, or somebody else's
    return found


def _spawn(root: Path, home: Path, ports: list[int], worker: bool) -> subprocess.Popen:
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with open(logs / "supervisor.log", "w") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "trivet.flows.supervisor",
                str(root.resolve()),
                *map(str, ports),
            ]
            + ["worker"] * worker,
            env=os.environ | {"TRIVET_UP": str(home)},
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(home: Path, started: subprocess.Popen | None = None) -> str | None:
    """None once both servers answer, else the name of what gave up, ended or stayed silent."""
    deadline = time.monotonic() + START_LIMIT
    silent = ["supervisor"]
    while time.monotonic() < deadline:
        state = _state(home)
        if state:
            if failed := [n for n, child in state["children"].items() if child["given_up"]]:
                return failed[0]
            silent = [name for name, url in _health(state).items() if not answers(url)]
            if not silent:
                return None
        ended = not _alive(state["supervisor"]) if state else started and started.poll() is not None
        if ended:
            return "supervisor"
        time.sleep(0.1)
    return silent[0]


def _failure(home: Path, name: str) -> UserError:
    log = home / "logs" / f"{name}.log"
    lines = log.read_text(errors="replace").strip().splitlines()[-8:] if log.exists() else []
    return UserError(
        f"The {name} did not come up within {START_LIMIT:.0f} seconds or ended again; all servers "
        f"are stopped. Mend what {log} says and try again; its last lines: " + " | ".join(lines)
    )
