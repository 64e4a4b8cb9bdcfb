"""The local servers: one real start, shared by the tests of this file.

Tested: started twice is started once, a scheduled run fires through the worker and ends Completed,
a schedule replaces its predecessor, what dies comes back, a taken port is refused, and stopping
leaves neither a process nor a port behind, also after the supervisor was killed.
Run: pytest tests/test_up.py   (about a minute)
"""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import yaml
from trivet.flows.up import Servers, connect, down, status, up

from trivet import UserError
from trivet.flows import schedule as scheduling
from trivet.flows import up as module
from trivet.flows.schedule import run_later, schedule, schedules

ROOT = Path(__file__).parents[1]
FLOW = """
import os
import time
from prefect import flow, task

@task
def double(x: int) -> int:
    return 2 * x

@flow(name="tune")
def tune(recipe: str, overrides: list[str]) -> None:
    if "tune.seed=60" in overrides:
        time.sleep(60)
    assert [double(i) for i in range(3)] == [0, 2, 4]
    with open("ran.txt", "a") as f:  # relative: the pull step must have set the directory
        f.write(f"{recipe} {overrides} {os.environ['MLFLOW_TRACKING_URI']}\\n")
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def within(seconds: float, holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def rows(root: Path) -> dict[str, dict]:
    return {row["name"]: row for row in status(root)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace whose prefect.yaml is ours but for the entry point: a flow that takes no time."""
    root = tmp_path_factory.mktemp("work space")
    (root / "toy.py").write_text(FLOW)
    deployment = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    deployment["deployments"][0]["entrypoint"] = "toy.tune"
    (root / "prefect.yaml").write_text(yaml.safe_dump(deployment))
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        patch.setenv("PYTHONPATH", path)
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PREFECT_HOME", str(root / ".trivet" / "prefect"))
        patch.setenv("TRIVET_PREFECT_PORT", str(free_port()))
        patch.setenv("TRIVET_MLFLOW_PORT", str(free_port()))
        yield root
        down(root)


@pytest.fixture(scope="module")
def servers(root: Path) -> Servers:
    return up(root)


def test_started_twice_is_started_once(root: Path, servers: Servers) -> None:
    within(30, lambda: rows(root)["worker"]["online"], "worker online")
    start = time.monotonic()
    again = up(root)
    assert time.monotonic() - start < 0.5
    assert connect(root) == again and again.pids.items() >= servers.pids.items()
    assert all(row["healthy"] and row["pid"] and row["since"] for row in status(root))


def test_what_the_servers_say_to_the_browser(servers: Servers) -> None:
    ui = json.loads(module.answers(f"{servers.prefect_url}/ui-settings") or "{}")
    assert ui["api_url"] == servers.prefect_api
    for url in (servers.prefect_url, servers.mlflow_url):
        assert b"<html" in (module.answers(url) or b"")


def run_state(servers: Servers, run: str) -> str:
    answer = module.answers(f"{servers.prefect_api}/flow_runs/{run}")
    return json.loads(answer or "{}").get("state_type", "")


def test_scheduled_run_fires_and_completes(root: Path, servers: Servers) -> None:
    run = run_later(root, servers, "home.toml", ["tune.rank=8"], seconds=3)
    ends = ("COMPLETED", "FAILED", "CRASHED")
    within(60, lambda: run_state(servers, run) in ends, "the run's end")
    assert run_state(servers, run) == "COMPLETED"
    ran = (root / "ran.txt").read_text()
    assert ran == f"home.toml ['tune.rank=8'] {servers.mlflow_url}\n"


def test_schedule_replaces_its_predecessor(root: Path, servers: Servers) -> None:
    schedule(root, servers, "home.toml", [], "0 2 * * *", "Europe/Budapest")
    schedule(root, servers, "home.toml", ["tune.seed=1"], "30 3 * * 1", "Europe/Budapest")
    schedule(root, servers, "chat.toml", [], "0 4 * * *")
    found = {row["name"]: row for row in schedules(root, servers)}
    assert set(found) == {"home", "chat"}
    assert found["home"] == {
        "name": "home",
        "cron": "30 3 * * 1",
        "timezone": "Europe/Budapest",
        "active": True,
        "recipe": "home.toml",
        "overrides": ["tune.seed=1"],
    }
    scheduling.deploy(root, servers)  # deployed again, what was scheduled stays
    assert len(schedules(root, servers)) == 2
    assert scheduling.unschedule(root, servers, "flows/recipes/home.toml")
    assert not scheduling.unschedule(root, servers, "home")
    assert [row["name"] for row in schedules(root, servers)] == ["chat"]


@pytest.mark.parametrize("cron, zone", [("every day", "UTC"), ("0 2 * * *", "Mars/Base")])
def test_bad_cron_is_refused(root: Path, servers: Servers, cron: str, zone: str) -> None:
    said = re.escape(f"--cron '{cron}' in time zone '{zone}'")
    with pytest.raises(UserError, match=said):
        schedule(root, servers, "home-slots.toml", [], cron, zone)
    assert "home-slots" not in [row["name"] for row in schedules(root, servers)]


def test_bad_entry_point_is_named(root: Path, servers: Servers, tmp_path: Path) -> None:
    text = (root / "prefect.yaml").read_text()
    (tmp_path / "prefect.yaml").write_text(text.replace("toy.tune", "toys.tune"))
    with pytest.raises(UserError, match="toys"):
        scheduling.deploy(tmp_path, servers)


def test_what_dies_comes_back(root: Path, servers: Servers) -> None:
    before = rows(root)
    for name in ("mlflow", "worker"):
        psutil.Process(before[name]["pid"]).kill()

    def back() -> bool:
        now = rows(root)
        new = all(now[n]["pid"] != before[n]["pid"] for n in ("mlflow", "worker"))
        return new and all(row["healthy"] and row["pid"] for row in now.values())

    within(60, back, "mlflow and worker restarted")
    assert rows(root)["prefect"] == before["prefect"]


def test_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"{port}.*TRIVET_MLFLOW_PORT"):
            up(tmp_path, free_port(), port)
    assert down(tmp_path) == []


def test_port_must_be_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_PREFECT_PORT", "http")
    with pytest.raises(UserError, match="TRIVET_PREFECT_PORT = 'http'"):
        up(tmp_path)


def test_named_server_must_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is not set"):
        connect(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="Nothing answers at PREFECT_API_URL"):
        connect(tmp_path)


def test_failed_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trivet.py").write_text("raise RuntimeError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="broken on purpose"):
        up(tmp_path, free_port(), free_port())
    assert module.ours(tmp_path / ".trivet") == []


def test_stopping_leaves_nothing_and_lets_a_run_say_that_it_crashed(
    root: Path, servers: Servers
) -> None:
    """The servers are down after this test."""
    run = run_later(root, servers, "home.toml", ["tune.seed=60"], seconds=0)
    within(60, lambda: run_state(servers, run) == "RUNNING", "the run's start")
    assert down(root) == ["prefect", "mlflow", "worker"]
    assert module.ours(root / ".trivet") == []
    for url in (servers.prefect_url, servers.mlflow_url):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    with closing(sqlite3.connect(root / ".trivet" / "prefect" / "prefect.db")) as store:
        state = store.execute("select state_type from flow_run where id = ?", [run]).fetchone()
    assert state == ("CRASHED",)
    assert not any(row["pid"] for row in status(root))
    assert down(root) == []


def test_what_a_killed_supervisor_left_is_ended(root: Path) -> None:
    """Orphans by their mark, also those that no state file names; never a recycled process id."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan = subprocess.Popen(command, env=os.environ | {"TRIVET_UP": str(root / ".trivet")})
    stranger = subprocess.Popen(command)
    recycled = {"pid": stranger.pid, "created": psutil.Process(stranger.pid).create_time() - 60}
    child = {"prefect": recycled | {"deaths": 0, "given_up": False}}
    state = {"ports": [1, 2], "worker": True, "supervisor": recycled, "children": child}
    (root / ".trivet" / "up.json").write_text(json.dumps(state))
    try:
        within(10, lambda: module.ours(root / ".trivet"), "the orphan's mark")
        assert down(root) == [f"process {orphan.pid}"]
        assert not psutil.pid_exists(orphan.pid)
        assert stranger.poll() is None
    finally:
        orphan.kill()
        stranger.kill()
        stranger.wait()
