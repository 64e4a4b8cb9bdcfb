"""The whole way, once, with the real weights: real servers, a scheduled run, its skip, its refusal.

The tests of this file tell one story and run in order. The budget is small (62 labelled rows, one
epoch), so the figures are poor; what is tested is that the chain holds.
Run: .venv/bin/pytest tests/test_flow.py
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import fresh_workspace

RECIPE = """
name = "small"
[data]
source = "home"
prompt = "Command: {text}. Intent:"
rows = 62
pool = 62
test = 60
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


TASKS = 23  # of a run with its FPGA leg


class Workspace:
    """A clone with its own servers, and the command line in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ports = [_free_port(), _free_port()]
        drop = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME")
        self.env = {k: v for k, v in os.environ.items() if k not in drop}
        self.env |= {"TRIVET_PREFECT_PORT": str(ports[0]), "TRIVET_MLFLOW_PORT": str(ports[1])}
        self.api = f"http://127.0.0.1:{ports[0]}/api"

    def trivet(self, *words: str, code: int = 0) -> str:
        """What a command printed, both streams; its exit code must be `code`."""
        done = self.start(*words, code=code)
        return done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.start(*words, "--json").stdout)

    def start(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        trivet = Path(sys.executable).with_name("trivet")
        done = subprocess.run(
            [trivet, *words],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def ask(self, path: str, **body: object) -> Any:
        import urllib.request

        request = urllib.request.Request(
            f"{self.api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_run(self, run_id: str) -> dict:
        return self.ask("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})[0]

    def task_states(self, run_id: str, count: int = TASKS) -> dict[str, str]:
        """Each task's name and final state; the server hears of tasks seconds after they end,
        so an answer with fewer of them than a run has is only early."""
        limit = time.monotonic() + 60
        while True:
            tasks = self.ask("task_runs/filter", task_runs={"flow_run_id": {"any_": [run_id]}})
            states = {t["name"]: t["state_name"] for t in tasks}
            ended = all(t["state_type"] == "COMPLETED" for t in tasks)
            if (ended and len(states) >= count) or time.monotonic() > limit:
                return states
            time.sleep(1)

    def fire(self) -> dict:
        """Schedule a run one second ahead and see it to its end."""
        return self.end(self.trivet("schedule", "small.toml", "--in", "1").split()[-1])

    def end(self, run_id: str) -> dict:
        """A flow run, once it has ended."""
        limit = time.monotonic() + 900
        while (found := self.flow_run(run_id))["state_type"] not in (
            "COMPLETED",
            "FAILED",
            "CRASHED",
        ):
            assert time.monotonic() < limit, found
            time.sleep(1)
        return found

    @property
    def runs(self) -> set[Path]:
        """The runs of the recipe that came to their end."""
        ended = {p.parent for p in (self.root / "runs").glob("*/report.html")}
        return {p for p in ended if not p.name.startswith("small-chip-")}

    @property
    def run(self) -> Path:
        (found,) = self.runs
        return found


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory):
    workspace = Workspace(fresh_workspace(tmp_path_factory.mktemp("flow") / "workspace"))
    (workspace.root / "small.toml").write_text(RECIPE)
    workspace.trivet("up")
    yield workspace
    workspace.trivet("down")


def test_a_scheduled_run_fires_and_is_proven(at: Workspace) -> None:
    found = at.fire()
    assert found["state_name"] == "Completed", found["state"]["message"]
    assert found["name"] == at.run.name and at.run.name.startswith("small-")
    states = at.task_states(found["id"])
    assert len(states) == TASKS and set(states.values()) == {"Completed"}, states

    parity = json.loads((at.run / "parity.json").read_text())
    hops = {hop["backend"]: hop for hop in parity["hops"]}
    assert parity["promoted"] and parity["refused"] == []
    assert list(hops) == [
        "adapter", "merged", "onnx-fp32", "onnx-int8", "student-float", "student-fixed", "hls-csim",
        "alkaid", "rtl",
    ]  # fmt: skip
    assert all(hop["rows"] == 60 and hop["ms_per_row"] > 0 for hop in hops.values())
    for name in ("hls-csim", "alkaid", "rtl"):
        assert hops[name]["exact"] and hops[name]["max_abs_diff"] == 0
    assert hops["merged"]["agreement"] >= 0.999 and hops["merged"]["before"] == "adapter"
    assert hops["onnx-int8"]["max_abs_diff"] > 0
    assert 0 < parity["baseline"]["value"] < 1
    chip = json.loads((at.run / "fpga.json").read_text())
    vectors = {way["backend"]: way["vectors_equal"] for way in chip["ways"]}
    assert vectors == {"hls-csim": 100_000, "alkaid": 100_000, "rtl": 20_000}
    assert chip["rtl"]["interval"] == 1 and chip["rtl"]["cycles"] <= 12
    assert chip["synth"]["failures"] == {} and chip["synth"]["xcup"]["dsp"] == 0
    assert chip["synth"]["xcup"]["lut"] > 0 and chip["synth"]["clock"]["mhz"] > 0
    page = (at.run / "report.html").read_text()
    assert at.run.name in page and "hls-csim" in page
    for part in (
        "adapter/adapter_model.safetensors",
        "merged/chat_template.jinja",
        "onnx/tokenizer.json",
        "hls",
        "rtl/src/student.v",
        "synth/synth.json",
    ):
        assert (at.run / part).exists()


def test_the_next_one_finds_nothing_changed(at: Workspace) -> None:
    before = (at.run / "parity.json").stat().st_mtime_ns
    found = at.fire()
    assert found["state_name"] == "Completed"
    states = at.task_states(found["id"])
    assert len(states) == TASKS and set(states.values()) == {"Cached"}, states
    assert (at.run / "parity.json").stat().st_mtime_ns == before
    assert "cached" in at.trivet("run", "small.toml")


def test_the_chain_back_from_the_champion(at: Workspace) -> None:
    (chain,) = at.json("why")
    lineage = json.loads((at.run / "lineage.json").read_text())
    assert (chain["model"], chain["version"], chain["aliases"]) == ("small", "1", ["champion"])
    assert chain["run"] == at.run.name and chain["lineage"] == lineage["lineage"]
    assert chain["dvc_md5"] in (at.root / "data.dvc").read_text()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=at.root, capture_output=True, text=True)
    assert chain["git_commit"] == head.stdout.strip()
    assert at.flow_run(chain["flow_run_id"])["name"] == at.run.name
    assert chain["parameters"]["tune.rank"] == "4"


def test_a_run_answers(at: Workspace) -> None:
    said = {}
    for backend in ("adapter", "onnx-fp32", "student-fixed", "hls-csim"):
        said[backend] = at.json("predict", "latest", "turn off the light", "--backend", backend)
    assert said["adapter"]["label"] == said["onnx-fp32"]["label"]
    assert said["student-fixed"]["best"] == said["hls-csim"]["best"]
    assert "does not talk" in at.trivet("chat", "latest", code=2)
    assert "onnx-fp32" in at.trivet("predict", "latest", "x", "--backend", "gpu", code=2)
    assert "is not there" in at.trivet("predict", "nothing", "x", code=2)


def test_the_chip_of_the_champion_is_built_by_its_own_deployment(at: Workspace) -> None:
    deployment = at.ask("deployments/filter", deployments={"name": {"any_": ["fpga-build"]}})[0]
    path = f"deployments/{deployment['id']}/create_flow_run"
    found = at.end(
        at.ask(path, parameters={"model": "small@champion"}, state={"type": "SCHEDULED"})["id"]
    )
    assert found["state_name"] == "Completed", found["state"]["message"]
    assert found["name"].startswith("small-chip-")
    states = at.task_states(found["id"], 15)
    assert len(states) == 15 and set(states.values()) == {"Completed", "Cached"}, states
    assert [name for name, state in states.items() if state == "Cached"] == ["version home"]
    run = at.root / "runs" / found["name"]
    hops = {hop["backend"]: hop for hop in json.loads((run / "parity.json").read_text())["hops"]}
    assert [*hops] == ["student-float", "student-fixed", "hls-csim", "alkaid", "rtl"]
    assert hops["rtl"]["exact"] and hops["rtl"]["value"] == hops["student-fixed"]["value"]
    weights = Path("student", "fixed.safetensors")
    assert (run / weights).read_bytes() == (at.run / weights).read_bytes()
    assert "LUT" in (run / "report.html").read_text()


def test_a_search_goes_on_where_it_was_stopped(at: Workspace) -> None:
    found = at.json("fpga", "search", "small.toml")
    trials = list(Path(found["folder"], "trials").glob("*.json"))
    assert found["trials"] == len(trials) == 2
    assert found["chosen"]["cost"] > 0 and found["pareto"]
    before = {file: file.stat().st_mtime_ns for file in trials}
    more = at.json("fpga", "search", "small.toml", "fpga.search_trials=3", "fpga.max_lut=90000")
    assert more["trials"] == 3 and more["folder"] == found["folder"]
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    flows = at.ask("flow_runs/filter", flows={"name": {"any_": ["fpga-trial"]}})
    assert len(flows) == 3 and all(f["parent_task_run_id"] for f in flows)
    assert Path(found["folder"], "pareto.png").stat().st_size > 10_000
    assert "none of 3 students fits" in at.trivet(
        "fpga", "search", "small.toml", "fpga.search_trials=3", "fpga.max_lut=1", code=2
    )


def test_a_damaged_export_is_refused_and_the_champion_stays(at: Workspace) -> None:
    """The int8 model's weights are scaled where it lies; a new recipe would ship it."""
    first = at.run
    (folder,) = (p for p in (at.root / ".trivet" / "store").glob("onnx-*") if p.is_dir())
    damaged = onnx.load(folder / "model.int8.onnx")
    for tensor in damaged.graph.initializer:
        if tensor.name.endswith("_scales"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    (folder / "model.int8.onnx").unlink()  # the run's folder holds a link to the whole one
    onnx.save(damaged, folder / "model.int8.onnx")
    for score in (at.root / ".trivet" / "store").glob("score-onnx-int8-*"):
        shutil.rmtree(score) if score.is_dir() else score.unlink()

    # one unit less than the first gate: another lineage, the same artifacts
    said = at.trivet("run", "small.toml", "gates.onnx_int8_points=19.0", code=3)
    assert "Refused: onnx-int8" in said and "at most 19 points of accuracy below onnx-fp32" in said
    (second,) = at.runs - {first}
    parity = json.loads((second / "parity.json").read_text())
    assert not parity["promoted"] and [r["backend"] for r in parity["refused"]] == ["onnx-int8"]
    chain = at.json("why", "small")
    assert (chain["version"], chain["run"]) == ("1", first.name)
    (flow,) = at.ask("flow_runs/filter", flow_runs={"name": {"any_": [second.name]}})
    assert flow["state_type"] == "FAILED" and "onnx-int8" in flow["state"]["message"]

    compared = at.json("compare", first.name, second.name)
    assert compared["recipe"] == {"gates.onnx_int8_points": [20.0, 19.0]}
    assert compared["hops"]["onnx-int8"]["passed"] == [True, False]
    at.trivet(
        "run", "small.toml", "gates.onnx_int8_points=19.0", code=3
    )  # cached, and still refused
