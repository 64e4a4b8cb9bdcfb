"""The local servers: Prefect, MLflow and a worker, under one supervisor; and what runs on schedule.

A flow run without a server loses most of its records, so Trivet never runs without one. `up` starts
what is missing and returns at once when it is there; everything it leaves lies in `.trivet/`. The
supervisor is a plain Python process (`python -m trivet.flows.up`) because workers started by a
shell in the background ignore SIGTERM; it restarts what dies and stops the worker before the
servers, so that no record is lost. Each process carries `.trivet/`'s path in its environment
(`TRIVET_UP`): that mark, not a process id that the system may have given away, says what is ours.

Not here: servers for a team (infra/), authentication, anything that listens beyond 127.0.0.1.
"""

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from tzlocal import get_localzone_name

from .. import UserError
from .recipe import load

POOL = "trivet"
DEPLOYMENT = "tune/tune"
START_LIMIT = 120.0  # seconds until both servers must answer
DRAIN = 3.0  # seconds the servers get to store what the stopped worker sent last
GRACE = 20.0  # seconds a child gets between SIGTERM and SIGKILL
RESTARTS = 5  # in a row, each within STEADY seconds of the one before; then the child is given up
STEADY = 60.0
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

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
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
    home = _home(root)
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
    return _servers(home, state)


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
    if _answers(f"{api}/health", seconds=5) is None:
        raise UserError(
            f"Nothing answers at PREFECT_API_URL = {api}: start that server, or unset the variable "
            "to use the local one."
        )
    home = os.environ.get("PREFECT_HOME") or str(_home(root) / "prefect")
    return Servers(api.removesuffix("/api"), api, mlflow, home)


def down(root: Path) -> list[str]:
    """Stop this workspace's servers, worker and scheduled runs; returns the names of what it ended.

    The supervisor stops its children in order; whatever an earlier kill -9 left over follows.
    """
    home = _home(root)
    state = _state(home)
    ended = [name for name, child in state.get("children", {}).items() if _alive(child)]
    if supervisor := _alive(state.get("supervisor")):
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=3 * GRACE)
    left = _ours(home)
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
    home = _home(root)
    state = _state(home)
    servers = _servers(home, state) if state else None
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
            _online(state) if name == "worker" else bool(_answers(_health(state)[name]))
        )
        started = datetime.fromtimestamp(alive.create_time()).astimezone() if alive else None
        row["since"] = started.isoformat(timespec="seconds") if started else None
        rows.append(row)
    rows[-1] |= {"pool": POOL, "online": rows[-1]["healthy"]}
    return rows


def _home(root: Path) -> Path:
    return root.resolve() / ".trivet"


def _state(home: Path) -> dict[str, Any]:
    """What the supervisor last wrote, or {} where none ever ran."""
    try:
        return json.loads((home / "up.json").read_text())
    except FileNotFoundError:
        return {}


def _servers(home: Path, state: dict[str, Any]) -> Servers:
    url = f"http://127.0.0.1:{state['ports'][0]}"
    pids = {name: child["pid"] for name, child in state["children"].items()}
    pids["supervisor"] = state["supervisor"]["pid"]
    mlflow = f"http://127.0.0.1:{state['ports'][1]}"
    return Servers(url, f"{url}/api", mlflow, str(home / "prefect"), pids)


def _health(state: dict[str, Any]) -> dict[str, str]:
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in state["ports"])
    return {"prefect": f"{prefect}/api/health", "mlflow": f"{mlflow}/health"}


def _answers(url: str, body: Any = None, seconds: float = 2) -> bytes | None:
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
    return any(w["status"] == "ONLINE" for w in json.loads(_answers(url, {}) or "[]"))


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


def _identity(pid: int) -> dict[str, Any]:
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def _alive(identity: dict[str, Any] | None) -> psutil.Process | None:
    """The process, unless it ended or its id now belongs to another one."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(identity["pid"]) if identity else None
        # A stepped clock moves the start time that the system reports, by a second at most.
        if identity and process and abs(process.create_time() - identity["created"]) < 2:
            return None if process.status() == psutil.STATUS_ZOMBIE else process
    return None


def _ours(home: Path, mark: str = "TRIVET_UP") -> list[psutil.Process]:
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
            [sys.executable, "-P", "-m", __name__, str(root.resolve()), *map(str, ports)]
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
            silent = [name for name, url in _health(state).items() if not _answers(url)]
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


# ------------------------------------------------------------------ supervisor


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
        self.identity = _identity(self.process.pid)
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
    servers = _servers(home, state)
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
    if not _answers(f"{api}/health"):
        return False
    wanted = {"automations": {"name": {"any_": [ZOMBIES["name"]]}}}
    known = _answers(f"{api}/automations/filter", wanted)
    return bool(json.loads(known or "[]") or _answers(f"{api}/automations/", ZOMBIES))


def _supervise(root: Path, ports: list[int], worker: bool) -> None:
    """Run the children until SIGTERM or SIGINT, then stop the worker, drain, stop the servers."""
    stopping: list[int] = []
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    home = _home(root)
    state = {"ports": ports, "worker": worker, "supervisor": _identity(os.getpid()), "children": {}}
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
    runs = [p for p in _ours(home, "TRIVET_UP_RUN") if p.pid not in workers]
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


# ------------------------------------------------------------------ deployment and schedule


def deploy(root: Path, servers: Servers) -> None:
    """Register what prefect.yaml holds; schedules that were added later stay.

    Raises UserError with Prefect's own words when prefect.yaml or its entry point is at fault.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=root,
        env=os.environ
        | servers.environment()
        | {"PWD": str(root.resolve()), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-6:]
        raise UserError(f"{root / 'prefect.yaml'} was not deployed: {' '.join(said)}")


def schedule(
    root: Path,
    servers: Servers,
    recipe: str,
    overrides: list[str],
    cron: str,
    timezone: str | None = None,
) -> str:
    """Run the recipe whenever `cron` says, in local time unless a zone is named; returns its name.

    The schedule carries the recipe's name: another one for the same recipe takes its place.
    Raises UserError for a bad recipe, override, cron string or time zone.
    """
    name, parameters = _parameters(root, recipe, overrides)
    with _client(servers) as client:
        from prefect.client.schemas.schedules import CronSchedule

        zone = timezone or get_localzone_name() or "UTC"
        try:
            times = CronSchedule(cron=cron, timezone=zone)
        except ValueError as error:
            raise UserError(
                f"No schedule for {recipe}: --cron {cron!r} in time zone {zone!r} does not hold "
                f"({_reason(error)}). Five fields: minute hour day month weekday; '0 2 * * *' is "
                "every night at two."
            ) from None
        deployment = _deployment(root, servers, client)
        old = [s for s in client.read_deployment_schedules(deployment) if s.slug == name]
        if old:
            client.update_deployment_schedule(
                deployment, old[0].id, active=True, schedule=times, parameters=parameters
            )
        else:
            client.create_deployment_schedules(
                deployment, [(times, True)], parameters=parameters, slug=name
            )
    return name


def unschedule(root: Path, servers: Servers, recipe: str) -> bool:
    """Take the recipe (a file or a schedule's name) off the schedule; False if it was not on it."""
    with _client(servers) as client:
        deployment = _deployment(root, servers, client)
        for old in client.read_deployment_schedules(deployment):
            if old.slug == Path(recipe).stem:
                client.delete_deployment_schedule(deployment, old.id)
                return True
    return False


def schedules(root: Path, servers: Servers) -> list[dict[str, Any]]:
    """One row per schedule: name, cron, timezone, active, recipe, overrides."""
    with _client(servers) as client:
        found = client.read_deployment_schedules(_deployment(root, servers, client))
    return [
        {
            "name": s.slug,
            "cron": getattr(s.schedule, "cron", None),
            "timezone": s.schedule.timezone,
            "active": s.active,
        }
        | s.parameters
        for s in found
    ]


def run_later(
    root: Path, servers: Servers, recipe: str, overrides: list[str], seconds: float
) -> str:
    """Have the worker run the recipe once, `seconds` from now; returns the flow run's id."""
    _, parameters = _parameters(root, recipe, overrides)
    with _client(servers) as client:
        from prefect.states import Scheduled

        due = datetime.now(UTC) + timedelta(seconds=seconds)
        run = client.create_flow_run_from_deployment(
            _deployment(root, servers, client),
            parameters=parameters,
            state=Scheduled(scheduled_time=due),
        )
    return str(run.id)


def _parameters(root: Path, recipe: str, overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """The recipe's name, and the flow's parameters with a path that holds from the root."""
    name = load(recipe, overrides).name
    file = Path(recipe).resolve()
    if file.exists():
        inside = file.is_relative_to(root.resolve())
        recipe = str(file.relative_to(root.resolve()) if inside else file)
    return name, {"recipe": recipe, "overrides": overrides}


def _deployment(root: Path, servers: Servers, client: Any) -> UUID:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(DEPLOYMENT).id
    except ObjectNotFound:
        deploy(root, servers)
        return client.read_deployment_by_name(DEPLOYMENT).id


@contextmanager
def _client(servers: Servers) -> Iterator[Any]:
    """Prefect's own client, aimed at these servers whatever the environment says."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    aimed = temporary_settings({PREFECT_API_URL: servers.prefect_api})
    with aimed, get_client(sync_client=True) as client:
        yield client


def _reason(error: ValueError) -> str:
    """pydantic's message without its preamble."""
    errors = getattr(error, "errors", None)
    return "; ".join(e["msg"] for e in errors()) if errors else str(error)


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]), [int(p) for p in sys.argv[2:4]], "worker" in sys.argv[4:])
