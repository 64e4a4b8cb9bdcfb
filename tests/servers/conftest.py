"""Real servers: one set for every test that only needs them running, an own one for who kills them.

`root` and `servers` are the shared set; a test must leave it running. `own_root` is a workspace
whose servers the test starts itself, and may end in whatever way.
"""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from trivet.flows.servers import Servers, down, up

REPOSITORY = Path(__file__).resolve().parents[2]
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


def toy_workspace(root: Path) -> Path:
    """A workspace whose prefect.yaml is ours but for the entry point: a flow that takes no time."""
    root.mkdir()
    (root / "toy.py").write_text(FLOW)
    deployment = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    deployment["deployments"][0]["entrypoint"] = "toy.tune"
    (root / "prefect.yaml").write_text(yaml.safe_dump(deployment))
    return root


def use_local_servers(root: Path, patch: pytest.MonkeyPatch) -> None:
    """An environment in which commands find this workspace's servers, and no others."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    patch.setenv("PYTHONPATH", path)
    patch.setenv("PREFECT_HOME", str(root / ".trivet" / "prefect"))
    patch.setenv("TRIVET_PREFECT_PORT", str(free_port()))
    patch.setenv("TRIVET_MLFLOW_PORT", str(free_port()))
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        patch.delenv(variable, raising=False)


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two ports that nobody listens on."""
    return free_port(), free_port()


@pytest.fixture(scope="session")
def shared_servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, tuple[Servers, Servers]]]:
    """The workspace, and what two `up` at the same moment returned."""
    root = toy_workspace(tmp_path_factory.mktemp("shared servers") / "work space")
    try:
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
            use_local_servers(root, patch)
            first, second = pool.map(up, [root, root])
        yield root, (first, second)
    finally:
        down(root)


@pytest.fixture
def root(
    shared_servers: tuple[Path, tuple[Servers, Servers]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    use_local_servers(shared_servers[0], monkeypatch)
    return shared_servers[0]


@pytest.fixture
def servers(root: Path, shared_servers: tuple[Path, tuple[Servers, Servers]]) -> Servers:
    return shared_servers[1][0]


@pytest.fixture
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = toy_workspace(tmp_path / "own")
    use_local_servers(root, monkeypatch)
    yield root
    down(root)
