"""What commands and supervisor both know: where the servers are, and whose process is whose.

A process id alone says nothing after a kill -9, because the system gives it away again. So every
process of ours carries the path of `.trivet/` in its environment (`TRIVET_UP`), and the state file
`.trivet/up.json` names a process by its id and its start time. Imported by every command: the
standard library and psutil only.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

WORK_POOL = "trivet"
STOP_TIMEOUT = 20.0  # seconds a child gets between SIGTERM and SIGKILL

NO_TELEMETRY = {
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
        direct = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"]
        no_proxy = ",".join(filter(None, direct))
        return NO_TELEMETRY | {
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_HOME": self.home,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }


@dataclass
class ProcessRecord:
    """A process by its id and start time (Unix seconds); a child's also by how often it died."""

    pid: int
    created: float
    deaths: int = 0  # in a row
    given_up: bool = False

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord":
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The living process; None if it ended or its id now belongs to another one."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            # A stepped clock moves the start time that the system reports, by a second at most.
            if abs(process.create_time() - self.created) < 2:
                return None if process.status() == psutil.STATUS_ZOMBIE else process
        return None


@dataclass
class ServerState:
    """The state file: written by the supervisor, read by every command."""

    ports: tuple[int, int]  # Prefect's, MLflow's
    worker: bool
    supervisor: ProcessRecord
    children: dict[str, ProcessRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path) -> "ServerState | None":
        """What the supervisor last wrote; None where none ran since the last `down`."""
        try:
            content = json.loads((home / "up.json").read_text())
        except FileNotFoundError:
            return None
        prefect, mlflow = content["ports"]
        return cls(
            ports=(prefect, mlflow),
            worker=content["worker"],
            supervisor=ProcessRecord(**content["supervisor"]),
            children={name: ProcessRecord(**child) for name, child in content["children"].items()},
        )

    def write(self, home: Path) -> None:
        partial = home / "up.json.partial"
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(home / "up.json")

    def servers(self, home: Path) -> Servers:
        prefect, mlflow = (f"http://127.0.0.1:{port}" for port in self.ports)
        pids = {name: child.pid for name, child in self.children.items()}
        pids["supervisor"] = self.supervisor.pid
        return Servers(prefect, f"{prefect}/api", mlflow, str(home / "prefect"), pids)

    def health_urls(self) -> dict[str, str]:
        prefect, mlflow = (f"http://127.0.0.1:{port}" for port in self.ports)
        return {"prefect": f"{prefect}/api/health", "mlflow": f"{mlflow}/health"}


def state_folder(root: Path) -> Path:
    return root.resolve() / ".trivet"


def owned_processes(home: Path, mark: str = "TRIVET_UP") -> list[psutil.Process]:
    """Every living process that carries this workspace's mark, this one left out."""
    owned = []
    for process in psutil.process_iter():
        # ended meanwhile, or somebody else's
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(mark) == str(home):
                owned.append(process)
    return owned


def http_get(url: str, body: object = None, seconds: float = 2) -> bytes | None:
    """The body of a 200 answer; b"" for another answer of a living server; None for silence.

    With a `body` it is posted as JSON instead.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    direct = [urllib.request.ProxyHandler({})] if "//127.0.0.1:" in url else []
    opener = urllib.request.build_opener(*direct)
    try:
        with opener.open(request, timeout=seconds) as response:
            return response.read()
    except urllib.error.HTTPError:
        return b""
    except (OSError, ValueError, http.client.HTTPException):
        return None
