"""A product run through its command line, in a workspace with real servers of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workspaces import fresh_workspace

Trivet = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One workspace for every test that only needs some run in it, its servers shared."""
    root = fresh_workspace(tmp_path_factory.mktemp("clone") / "workspace")
    yield root
    command_in(root, {})("down")


@pytest.fixture(scope="session")
def trivet(clone: Path) -> Trivet:
    """`trivet` in that workspace; `plugin`: a module that is imported first, as an installed
    package's entry point would be.
    """
    ports = {"TRIVET_PREFECT_PORT": free_port(), "TRIVET_MLFLOW_PORT": free_port()}
    return command_in(clone, ports)


def command_in(root: Path, ports: dict[str, str]) -> Trivet:
    def run(*words: str, plugin: str = "", rc: int | None = 0) -> subprocess.CompletedProcess[str]:
        load = f"import {plugin}; " if plugin else ""
        code = f"{load}import sys; from trivet.cli.main import main; main()"
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *words],
            cwd=root,
            env=os.environ | ports | {"PYTHONPATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert rc is None or done.returncode == rc, done.stdout + done.stderr
        return done

    return run


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
