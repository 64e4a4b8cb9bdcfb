"""The product as a user has it: `trivet` in a folder, and the recipes of the shared runs."""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_api import PrefectApi

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
test = 40
[model]
base = "{base}"
[tune]
epochs = 1
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
beats_baseline = false
onnx_int8_points = 20.0
student_points = 100.0
fixed_points = 100.0
"""
MINE = """
name = "mine"
[data]
source = "mine.csv"
prompt = "Command: {{text}}. Intent:"
rows = 150
[model]
base = "{base}"
[tune]
epochs = 3
learning_rate = 5e-3
rank = 8
[gates]
beats_baseline = false
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


def environment() -> dict[str, str]:
    """A user's own, in which `trivet` finds what these tests register as plug-ins."""
    own = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {"OMP_NUM_THREADS": "1"} | own | {"COLUMNS": "200", "PYTHONPATH": path}


def command(*words: str, plugin: str = "", python: Path | None = None) -> list[str]:
    load = f"import {plugin}; " if plugin else ""
    code = f"{load}import sys; from trivet.cli.main import main; main()"
    return [str(python or sys.executable), "-P", "-c", code, *words]


def command_in(root: Path, env: dict[str, str] | None = None, python: Path | None = None) -> Trivet:
    """`trivet` in that folder; `plugin`: a module that is imported first, as an installed package's
    entry point would be; `env`: more of the environment; `rc`: what it must end with; `typed`: its
    input.
    """
    of_folder = env or {}

    def run(
        *words: str,
        plugin: str = "",
        rc: int | None = 0,
        env: dict[str, str] | None = None,
        typed: str = "",
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words, plugin=plugin, python=python),
            cwd=root,
            env=environment() | of_folder | (env or {}),
            input=typed,
            capture_output=True,
            text=True,
        )
        assert rc is None or done.returncode == rc, done.stdout + done.stderr
        return done

    return run


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


def fire(trivet: Trivet, prefect: PrefectApi) -> dict[str, Any]:
    """Schedule `small.toml` one second ahead and see it to its end."""
    return prefect.end(trivet("schedule", "small.toml", "--in", "1").stdout.split()[-1])


def write_mine(root: Path, base: Path) -> None:
    """`mine.csv` and its recipe."""
    with (root / "mine.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for place in PLACES.split():
            table.writerows([text.format(place), label] for label, text in SENTENCES.items())
    (root / "mine.toml").write_text(MINE.format(base=base))
