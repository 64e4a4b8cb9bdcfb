"""Clones on one machine share a store: what one of them built, the others do not build again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_api import PrefectApi
from product import Ran, Trivet, command_in, write_mine
from s3_server import s3_server
from workspaces import fresh_workspace

pytestmark = pytest.mark.long  # make sweep

RUN = ("run", "mine.toml", "--json")
TEXT = "turn on the hall light"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which the store is a bucket of a real S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server.environment("store")


@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_a_second_clone_builds_nothing(
    kind: str,
    request: pytest.FixtureRequest,
    mine_run: Ran,
    trivet: Trivet,
    clone: Path,
    servers: dict[str, str],
    prefect: PrefectApi,
    small_base: Path,
    tmp_path: Path,
) -> None:
    if kind == "bucket":
        env = request.getfixturevalue("bucket")
        trivet(*RUN, env=env)  # what the first clone has goes up
    else:
        env = {"TRIVET_STORE": str(clone / ".trivet" / "store")}
    second = fresh_workspace(tmp_path / "elsewhere")
    write_mine(second, small_base)
    trivet_2 = command_in(second, servers | env)

    table = json.loads(trivet_2(*RUN).stdout)
    assert table == mine_run.json("parity.json")
    tasks = prefect.tasks(prefect.latest(mine_run.name)["id"], 19)
    state = {name: task.name for name, task in tasks.items()}
    folders = {"version mine.csv", "prove mine", f"report {mine_run.name}"}  # its own
    assert {name for name in state if state[name] == "Completed"} == folders
    assert set(state.values()) == {"Completed", "Cached"} and len(state) == 19

    weights = Path("merged", "model.safetensors")
    copy = second / "runs" / mine_run.name
    assert (copy / weights).read_bytes() == (mine_run.folder / weights).read_bytes()
    said = [
        json.loads(run("predict", mine_run.name, TEXT, "--backend", "onnx-int8", "--json").stdout)
        for run in (trivet, trivet_2)
    ]
    assert said[0] == said[1] and said[0]["label"] == "on"
