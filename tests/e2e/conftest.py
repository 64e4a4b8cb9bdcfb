"""A product run through its command line, in a workspace with real servers of its own.

Two runs are shared by all tests: `home_run`, from the shipped sentences to Verilog, fired by the
scheduler, and `mine_run`, of a user's file. Both tune the first two layers of the real base, so
their figures are poor; what is tested is that the chain holds.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_api import PrefectApi
from product import HOME, Ran, Trivet, command_in, fire, free_port, write_mine
from workspaces import fresh_workspace


@pytest.fixture(scope="session")
def ports() -> tuple[str, str]:
    """Prefect's and MLflow's."""
    return free_port(), free_port()


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, ports: tuple[str, str]) -> Iterator[Path]:
    """One workspace for every test that only needs some run in it, its servers shared."""
    root = fresh_workspace(tmp_path_factory.mktemp("clone") / "workspace")
    trivet = command_in(root)
    trivet("up", "--prefect-port", ports[0], "--mlflow-port", ports[1])
    yield root
    assert "Stopped" in trivet("down").stdout


@pytest.fixture(scope="session")
def trivet(clone: Path) -> Trivet:
    """`trivet` in that workspace."""
    return command_in(clone)


@pytest.fixture(scope="session")
def prefect(ports: tuple[str, str]) -> PrefectApi:
    return PrefectApi(f"http://127.0.0.1:{ports[0]}/api")


@pytest.fixture(scope="session")
def servers(clone: Path, ports: tuple[str, str]) -> dict[str, str]:
    """The environment in which another clone takes this one's servers, as a team does."""
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in ports)
    return {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}


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
        "gates.beats_baseline=false",  # two layers of the base: the chain holds, the figures do not
    ]


@pytest.fixture(scope="session")
def home_run(trivet: Trivet, clone: Path, prefect: PrefectApi, small_base: Path) -> Ran:
    """`small.toml`, all three legs, fired by the scheduler and run by the worker."""
    (clone / "small.toml").write_text(HOME.format(base=small_base))
    run = fire(trivet, prefect)
    assert run["state_name"] == "Completed", run["state"]["message"]
    return Ran(run["id"], clone / "runs" / run["name"])


@pytest.fixture(scope="session")
def mine_run(trivet: Trivet, clone: Path, prefect: PrefectApi, small_base: Path) -> Ran:
    """`mine.toml`: a user's file, which the two layers learn whole; no FPGA leg."""
    write_mine(clone, small_base)
    table = json.loads(trivet("run", "mine.toml", "--json").stdout)
    return Ran(prefect.latest(table["run"])["id"], clone / "runs" / table["run"])


@pytest.fixture(scope="session")
def chip_run(home_run: Ran, prefect: PrefectApi, clone: Path) -> Ran:
    """The chip of that run's model, built by its own deployment."""
    deployment = prefect.ask("deployments/filter", deployments={"name": {"any_": ["fpga-build"]}})
    path = f"deployments/{deployment[0]['id']}/create_flow_run"
    parameters = {"model": "small@champion"}
    run = prefect.ask(path, parameters=parameters, state={"type": "SCHEDULED"})
    run = prefect.end(run["id"])
    assert run["state_name"] == "Completed", run["state"]["message"]
    return Ran(run["id"], clone / "runs" / run["name"])
