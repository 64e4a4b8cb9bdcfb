"""The local servers, started for real: two commands at once start one set, a scheduled run fires
through the worker and ends Completed, a schedule replaces its predecessor, a run that falls silent
is crashed, MLflow keeps artifacts in a plain folder, what dies comes back, a taken port is refused,
and stopping leaves neither a process nor a port behind, also after a kill -9 of the supervisor.
Run: pytest tests/servers/test_servers.py   (about two minutes)
"""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import url2pathname

import psutil
import pytest
from prefect_api import PrefectApi

from trivet import UserError
from trivet.flows import schedule as scheduling
from trivet.flows.schedule import Schedule, run_later, schedule, schedules
from trivet.flows.server_state import http_get, owned_processes
from trivet.flows.servers import Servers, ServerStatus, connect, down, status, up

ENDS = ("COMPLETED", "FAILED", "CRASHED")


def within(seconds: float, holds: Callable[[], object], what: str) -> None:
    """Waits: the limit ends a test that would hang, it is no claim about speed."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def rows(root: Path) -> dict[str, ServerStatus]:
    return {row.name: row for row in status(root)}


def run_state(servers: Servers, run: str) -> str:
    return str(PrefectApi(servers.prefect_api).flow_run(run)["state_type"])


@pytest.fixture(scope="module")
def heartbeats(
    shared_servers: tuple[Path, tuple[Servers, Servers]],
) -> Iterator[tuple[str, str]]:
    """Two runs without a process, as a kill -9 of run and worker leaves them: the last heartbeat
    of the first came 85 s ago, the second's go on."""
    root, (servers, _) = shared_servers
    within(120, lambda: rows(root)["worker"].online, "the worker, started after the automation")
    prefect = PrefectApi(servers.prefect_api)
    flow = prefect.ask("flows/", name="silent")["id"]
    body = {"flow_id": flow, "state": {"type": "RUNNING"}}
    silent, alive = (prefect.ask("flow_runs/", body)["id"] for _ in range(2))
    beat(prefect, silent, -85)
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(10):
            beat(prefect, alive)

    heart = threading.Thread(target=go_on)
    heart.start()
    yield silent, alive
    ended.set()
    heart.join()


def beat(prefect: PrefectApi, run: str, seconds: float = 0) -> None:
    """A heartbeat of a run, so many seconds from now."""
    heartbeat = {
        "id": str(uuid.uuid4()),
        "occurred": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
    }
    prefect.ask("events", [heartbeat])


# They begin their silence here: Prefect looks every 90 s, and the other tests fill that.
@pytest.mark.usefixtures("heartbeats")
def test_two_commands_at_once_start_one_set(
    root: Path, shared_servers: tuple[Path, tuple[Servers, Servers]]
) -> None:
    first, second = shared_servers[1]
    assert first.pids["supervisor"] == second.pids["supervisor"]
    within(120, lambda: rows(root)["worker"].online, "worker online")
    state = (root / ".trivet" / "up.json").stat().st_mtime_ns
    again = up(root)
    assert connect(root) == again and again.pids.items() >= first.pids.items()
    assert (root / ".trivet" / "up.json").stat().st_mtime_ns == state
    assert all(row.healthy and row.pid and row.since for row in status(root))


def test_what_the_servers_say_to_the_browser(servers: Servers) -> None:
    ui = json.loads(http_get(f"{servers.prefect_url}/ui-settings", seconds=30) or "{}")
    assert ui["api_url"] == servers.prefect_api
    for url in (servers.prefect_url, servers.mlflow_url):
        assert b"<html" in (http_get(url, seconds=30) or b"")


def test_scheduled_run_fires_and_completes(root: Path, servers: Servers) -> None:
    run = run_later(root, servers, "home.toml", ["tune.rank=8"], seconds=3)
    within(120, lambda: run_state(servers, run) in ENDS, "the run's end")
    assert run_state(servers, run) == "COMPLETED"
    ran = (root / "ran.txt").read_text()
    assert ran == f"home.toml ['tune.rank=8'] {servers.mlflow_url}\n"


def test_schedule_replaces_its_predecessor(root: Path, servers: Servers) -> None:
    schedule(root, servers, "home.toml", [], "0 2 * * *", "Europe/Budapest")
    schedule(root, servers, "home.toml", ["tune.seed=1"], "30 3 * * 1", "Europe/Budapest")
    schedule(root, servers, "chat.toml", [], "0 4 * * *")
    by_name = {row.name: row for row in schedules(root, servers)}
    assert set(by_name) == {"home", "chat"}
    assert by_name["home"] == Schedule(
        name="home",
        cron="30 3 * * 1",
        timezone="Europe/Budapest",
        active=True,
        recipe="home.toml",
        overrides=["tune.seed=1"],
    )
    scheduling.deploy(root, servers)  # deployed again, what was scheduled stays
    assert len(schedules(root, servers)) == 2
    assert scheduling.unschedule(root, servers, "flows/recipes/home.toml")
    assert not scheduling.unschedule(root, servers, "home")
    assert [row.name for row in schedules(root, servers)] == ["chat"]


@pytest.mark.parametrize("cron, zone", [("every day", "UTC"), ("0 2 * * *", "Mars/Base")])
def test_bad_cron_is_refused(root: Path, servers: Servers, cron: str, zone: str) -> None:
    said = re.escape(f"--cron '{cron}' in time zone '{zone}'")
    with pytest.raises(UserError, match=said):
        schedule(root, servers, "home-slots.toml", [], cron, zone)
    assert "home-slots" not in [row.name for row in schedules(root, servers)]


def test_bad_entry_point_is_named(root: Path, servers: Servers, tmp_path: Path) -> None:
    text = (root / "prefect.yaml").read_text()
    (tmp_path / "prefect.yaml").write_text(text.replace("toy.tune", "toys.tune"))
    with pytest.raises(UserError, match="toys"):
        scheduling.deploy(tmp_path, servers)


def test_mlflow_artifacts_are_plain_files_that_a_client_may_link(
    root: Path, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    url = servers.mlflow_url
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("linked")).info
    folder = Path(url2pathname(urllib.parse.urlsplit(run.artifact_uri).path))
    assert folder.is_relative_to(root / ".trivet" / "mlflow" / "artifacts")

    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(range(256)))
    client.log_artifact(run.run_id, str(weights), "adapter")
    assert (folder / "adapter" / "weights.bin").read_bytes() == weights.read_bytes()
    (folder / "merged").mkdir()
    os.link(weights, folder / "merged" / "weights.bin")

    client.create_registered_model("linked")
    version = client.create_model_version("linked", f"{run.artifact_uri}/merged", run.run_id)
    client.set_registered_model_alias("linked", "champion", version.version)
    where = mlflow.artifacts.download_artifacts("models:/linked@champion")
    assert (Path(where) / "weights.bin").samefile(weights)  # read in place, stored once
    with pytest.raises(mlflow.MlflowException, match="Invalid model version source"):
        client.create_model_version("linked", str(tmp_path), run.run_id)

    listed = http_get(f"{url}/ajax-api/2.0/mlflow/artifacts/list?run_id={run.run_id}&path=merged")
    assert json.loads(listed or "{}")["files"] == [
        {"path": "merged/weights.bin", "is_dir": False, "file_size": 256}
    ]
    query = urllib.parse.urlencode({"run_uuid": run.run_id, "path": "merged/weights.bin"})
    assert http_get(f"{url}/get-artifact?{query}") == weights.read_bytes()


def test_mlflow_experiments_of_before_keep_their_artifacts(
    root: Path, servers: Servers, tmp_path: Path
) -> None:
    """Their location is `mlflow-artifacts:`; the bytes go through the server, into its folder."""
    import mlflow

    url = servers.mlflow_url
    client = mlflow.MlflowClient(url, url)
    run = client.create_run(client.create_experiment("before", "mlflow-artifacts:/before")).info
    (tmp_path / "note.txt").write_text("from before")
    client.log_artifact(run.run_id, str(tmp_path / "note.txt"))
    (file,) = (root / ".trivet" / "mlflow" / "artifacts" / "before").rglob("note.txt")
    assert file.read_text() == "from before"
    query = urllib.parse.urlencode({"run_uuid": run.run_id, "path": "note.txt"})
    assert http_get(f"{url}/get-artifact?{query}") == b"from before"
    assert Path(client.download_artifacts(run.run_id, "note.txt")).read_text() == "from before"


def test_a_run_whose_heartbeat_fell_silent_is_crashed(
    servers: Servers, heartbeats: tuple[str, str]
) -> None:
    (automation,) = PrefectApi(servers.prefect_api).ask("automations/filter")
    assert automation["enabled"]
    silent, alive = heartbeats
    within(240, lambda: run_state(servers, silent) == "CRASHED", "Prefect looks every 90 s")
    assert run_state(servers, alive) == "RUNNING"


def test_taken_port_is_refused(tmp_path: Path, ports: tuple[int, int]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"{port}.*TRIVET_MLFLOW_PORT"):
            up(tmp_path, ports[0], port)
    assert down(tmp_path) == []


def test_port_must_be_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_PREFECT_PORT", "http")
    with pytest.raises(UserError, match="TRIVET_PREFECT_PORT = 'http'"):
        up(tmp_path)


def test_named_server_must_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: tuple[int, int]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{ports[0]}/api")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is not set"):
        connect(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="Nothing answers at PREFECT_API_URL"):
        connect(tmp_path)


def test_failed_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: tuple[int, int]
) -> None:
    (tmp_path / "trivet.py").write_text("raise RuntimeError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="broken on purpose"):
        up(tmp_path, *ports)
    assert owned_processes(tmp_path / ".trivet") == []


def test_what_dies_comes_back_and_what_a_killed_supervisor_left_is_ended(own_root: Path) -> None:
    servers = up(own_root)
    within(120, lambda: rows(own_root)["worker"].online, "worker online")
    before = rows(own_root)
    for name in ("mlflow", "worker"):
        psutil.Process(before[name].pid).kill()

    def back() -> bool:
        now = rows(own_root)
        new = all(now[n].pid != before[n].pid for n in ("mlflow", "worker"))
        return new and all(row.healthy and row.pid for row in now.values())

    within(120, back, "mlflow and worker restarted")
    assert rows(own_root)["prefect"] == before["prefect"]
    assert (
        len(PrefectApi(servers.prefect_api).ask("automations/filter")) == 1
    )  # the second worker found it

    psutil.Process(servers.pids["supervisor"]).kill()
    assert all(row.healthy for row in status(own_root))
    assert down(own_root) == ["prefect", "mlflow", "worker"]
    assert owned_processes(own_root / ".trivet") == []


def test_stopping_leaves_nothing_and_lets_a_run_say_that_it_crashed(own_root: Path) -> None:
    servers = up(own_root)
    run = run_later(own_root, servers, "home.toml", ["tune.seed=60"], seconds=0)
    within(120, lambda: run_state(servers, run) == "RUNNING", "the run's start")
    assert down(own_root) == ["prefect", "mlflow", "worker"]
    assert owned_processes(own_root / ".trivet") == []
    for url in (servers.prefect_url, servers.mlflow_url):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    with closing(sqlite3.connect(own_root / ".trivet" / "prefect" / "prefect.db")) as store:
        state = store.execute("select state_type from flow_run where id = ?", [run]).fetchone()
    assert state == ("CRASHED",)
    assert not any(row.pid for row in status(own_root))
    assert down(own_root) == []


def test_an_orphan_is_known_by_its_mark_and_a_stranger_left_alone(own_root: Path) -> None:
    """Also orphans that no state file names; never a recycled process id."""
    home = own_root / ".trivet"
    home.mkdir()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan = subprocess.Popen(command, env=os.environ | {"TRIVET_UP": str(home)})
    stranger = subprocess.Popen(command)
    recycled = {"pid": stranger.pid, "created": psutil.Process(stranger.pid).create_time() - 60}
    child = {"prefect": recycled | {"deaths": 0, "given_up": False}}
    state = {"ports": [1, 2], "worker": True, "supervisor": recycled, "children": child}
    (home / "up.json").write_text(json.dumps(state))
    try:
        within(60, lambda: owned_processes(home), "the orphan's mark")
        assert down(own_root) == [f"process {orphan.pid}"]
        assert not psutil.pid_exists(orphan.pid)
        assert stranger.poll() is None
    finally:
        orphan.kill()
        stranger.kill()
        stranger.wait()
