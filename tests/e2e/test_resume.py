"""SIGKILL at four moments of one run; the same command goes on, and the losses are the same.

Run: .venv/bin/pytest tests/e2e/test_resume.py
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_api import PrefectApi
from product import Ran, Trivet, command, environment

pytestmark = pytest.mark.long  # make sweep

TIMES = ("ms_per_row", "run")
WORDS = ("run", "mine.toml", "track.model=killed", "--json")


def kill_when(reached: Callable[[], bool], clone: Path, store: Path) -> None:
    """Run until the moment, then SIGKILL with all that the run started."""
    run = subprocess.Popen(
        command(*WORDS),
        cwd=clone,
        env=environment() | {"TRIVET_STORE": str(store)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not reached():
            assert run.poll() is None, "the run ended before the moment came"
            time.sleep(0.005)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def figures(table: Any) -> Any:
    """A parity table without what differs from one machine's hour to the next."""
    if isinstance(table, dict):
        return {key: figures(value) for key, value in table.items() if key not in TIMES}
    return [figures(item) for item in table] if isinstance(table, list) else table


def test_killed_at_four_moments_it_ends_as_if_nothing_had_been(
    mine_run: Ran, trivet: Trivet, clone: Path, prefect: PrefectApi, tmp_path: Path
) -> None:
    store, runs = tmp_path / "store", clone / "runs"
    before = set(runs.iterdir())

    def there(pattern: str) -> Callable[[], bool]:
        return lambda: any(store.glob(pattern))

    def proven() -> bool:
        return any((run / "parity.json").exists() for run in set(runs.iterdir()) - before)

    kill_when(there("adapter-*.part/checkpoint.pt"), clone, store)  # an epoch is done, two are not
    assert not [path for path in store.glob("adapter-*/") if path.suffix != ".part"]
    kill_when(there("onnx-*.part/*"), clone, store)
    kill_when(there("score-onnx-fp32-*.part"), clone, store)
    kill_when(proven, clone, store)  # registering

    table = json.loads(trivet(*WORDS, env={"TRIVET_STORE": str(store)}).stdout)
    folder = runs / table["run"]
    assert folder not in before and table["promoted"]
    assert figures(table) == figures(mine_run.json("parity.json"))
    assert json.loads((folder / "curve.json").read_text()) == mine_run.json("curve.json")
    weights = Path("adapter", "adapter_model.safetensors")
    assert (folder / weights).read_bytes() == (mine_run.folder / weights).read_bytes()
    assert (folder / weights).stat().st_ino != (mine_run.folder / weights).stat().st_ino

    tasks = prefect.tasks(prefect.latest(folder.name)["id"], 19)
    done = {name for name, task in tasks.items() if task.name == "Completed"}
    assert done <= {"register killed", f"report {folder.name}"}
    chain = json.loads(trivet("why", "killed", "--json").stdout)
    assert (chain["version"], chain["aliases"]) == ("1", ["champion"])
    assert not list(store.glob("*.part"))
