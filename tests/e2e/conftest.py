"""A product run through its command line, in a workspace with real servers of its own.

Two runs are shared by all tests: `home_run`, from the shipped sentences to Verilog, fired by the
scheduler, and `mine_run`, of a user's file. Both tune the first two layers of the real base, so
their figures are poor; what is tested is that the chain holds.
"""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect_api import PrefectApi
from workspaces import fresh_workspace

Trivet = Callable[..., subprocess.CompletedProcess[str]]

# Those of whoever runs the tests; the product finds its own servers and compiles its own kernels.
FOREIGN = ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "TRITON_INTERPRET")
HOME = """
name = "small"
[data]
source = "home"
prompt = "Command: {{text}}. Intent:"
rows = 62
pool = 62
test = 60
[model]
base = "{base}"
[tune]
epochs = 1
rank = 4
[fpga]
enabled = true
bins = 64
hidden = [8]
weight_bits = 3
activation_bits = 4
sparsity = [0.8, 0.5]
epochs = 4
search_trials = 2
[gates]
onnx_int8_points = 20.0
student_points = 100.0
fixed_points = 100.0
"""
MINE = """
name = "mine"
[data]
source = "mine.csv"
[model]
base = "{base}"
[tune]
epochs = 3
rank = 4
learning_rate = 5e-3
[gates]
onnx_int8_points = 20.0
"""
SENTENCES = {
    "on": "turn on the {} light",
    "off": "switch the {} light off",
    "dim": "make it darker in the {}",
    "ask": "is the {} window open",
}
PLACES = "hall attic kitchen garage cellar office porch garden bath bedroom study stairs loft shed"


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def command_in(root: Path, env: dict[str, str]) -> Trivet:
    """`trivet` in that folder; `plugin`: a module that is imported first, as an installed package's
    entry point would be; `env`: more of the environment; `rc`: what it must end with.
    """
    own = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    own = {"OMP_NUM_THREADS": "1"} | own | env | {"COLUMNS": "200"}

    def run(
        *words: str,
        plugin: str = "",
        rc: int | None = 0,
        env: dict[str, str] | None = None,
        typed: str = "",
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words, plugin=plugin),
            cwd=root,
            env=own | {"PYTHONPATH": python_path()} | (env or {}),
            input=typed,
            capture_output=True,
            text=True,
        )
        assert rc is None or done.returncode == rc, done.stdout + done.stderr
        return done

    return run


def command(*words: str, plugin: str = "") -> list[str]:
    load = f"import {plugin}; " if plugin else ""
    code = f"{load}import sys; from trivet.cli.main import main; main()"
    return [sys.executable, "-P", "-c", code, *words]


def python_path(*first: Path) -> str:
    folders = [*first, Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(map(str, folders))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One workspace for every test that only needs some run in it, its servers shared."""
    root = fresh_workspace(tmp_path_factory.mktemp("clone") / "workspace")
    yield root
    command_in(root, {})("down")


@pytest.fixture(scope="session")
def ports() -> dict[str, str]:
    """Of that workspace's servers."""
    return {"TRIVET_PREFECT_PORT": free_port(), "TRIVET_MLFLOW_PORT": free_port()}


@pytest.fixture(scope="session")
def trivet(clone: Path, ports: dict[str, str]) -> Trivet:
    """`trivet` in that workspace."""
    return command_in(clone, ports)


@pytest.fixture(scope="session")
def prefect(ports: dict[str, str]) -> PrefectApi:
    return PrefectApi(f"http://127.0.0.1:{ports['TRIVET_PREFECT_PORT']}/api")


@pytest.fixture(scope="session")
def servers(prefect: PrefectApi, ports: dict[str, str], mine_run: "Ran") -> dict[str, str]:
    """The environment in which another clone takes this one's servers, as a team does."""
    mlflow = f"http://127.0.0.1:{ports['TRIVET_MLFLOW_PORT']}"
    return {"PREFECT_API_URL": prefect.url, "MLFLOW_TRACKING_URI": mlflow}


@pytest.fixture(scope="session")
def small(small_base: Path) -> list[str]:
    """Overrides that make a whole run take seconds."""
    return [
        f"model.base={small_base}",
        "data.rows=62",
        "data.test=40",
        "tune.epochs=1",
        "fpga.enabled=false",
        "gates.onnx_int8_points=100",
    ]


@dataclass(frozen=True)
class Ran:
    """A run that came to its end: its flow run and its folder."""

    id: str
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def json(self, file: str) -> Any:
        return json.loads((self.folder / file).read_text())


@pytest.fixture(scope="session")
def home_run(trivet: Trivet, clone: Path, prefect: PrefectApi, small_base: Path) -> Ran:
    """`small.toml`, all three legs, fired by the scheduler and run by the worker."""
    (clone / "small.toml").write_text(HOME.format(base=small_base))
    run = fire(trivet, prefect)
    assert run["state_name"] == "Completed", run["state"]["message"]
    return Ran(run["id"], clone / "runs" / run["name"])


def fire(trivet: Trivet, prefect: PrefectApi) -> dict[str, Any]:
    """Schedule `small.toml` one second ahead and see it to its end."""
    return prefect.end(trivet("schedule", "small.toml", "--in", "1").stdout.split()[-1])


@pytest.fixture(scope="session")
def mine_run(trivet: Trivet, clone: Path, prefect: PrefectApi, small_base: Path) -> Ran:
    """`mine.toml`: a user's file, which the two layers learn whole; no FPGA leg."""
    write_mine(clone, small_base)
    table = json.loads(trivet("run", "mine.toml", "--json").stdout)
    return Ran(prefect.latest(table["run"])["id"], clone / "runs" / table["run"])


def write_mine(root: Path, base: Path) -> None:
    """`mine.csv` and its recipe."""
    with (root / "mine.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for place in PLACES.split():
            table.writerows([text.format(place), label] for label, text in SENTENCES.items())
    (root / "mine.toml").write_text(MINE.format(base=base))
