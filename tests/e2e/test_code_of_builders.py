"""What really runs while an artifact is built is in its key: an independent look at the imports.

Run: pytest tests/e2e/test_code_of_builders.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trivet.artifacts.code import MACHINERY, reach

pytestmark = pytest.mark.long  # make sweep

# In a process of its own: builds a run's artifacts, and says of each which modules of Trivet were
# imported and in which ones a function ran meanwhile (but to find its parents), and the
# roots that it names.
BUILD = """
import json, sys, threading
from pathlib import Path
from bare_run import bare_run
from trivet.evaluate.score import Scored
from trivet.evaluate.stock import Stock
from trivet.check import CHECKED

root, names, tree, rows = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
run = bare_run(root, tree, rows)
asked = [backend for backend in run.backends() if backend.name in ("onnx-int8", "adapter")]
scores = [kind(backend) for backend in asked for kind in (Scored, Stock)]
artifacts = {artifact.name: artifact for artifact in [CHECKED, *run.artifacts(), *scores]}
report = {}


def callers(frame):
    while frame:
        if frame.f_globals.get("__name__", "").split(".")[0] == "trivet":
            yield frame.f_code.co_name
        frame = frame.f_back


for artifact in map(artifacts.get, names or artifacts):
    ran = set()

    def record(frame, event, argument):
        if event != "call":
            return
        name = frame.f_globals.get("__name__", "")
        if name not in ran and name.split(".")[0] == "trivet":
            if not {"key", "line", "parents"} & set(callers(frame)):
                ran.add(name)

    before = set(sys.modules)
    threading.setprofile(record)
    sys.setprofile(record)
    run.build(artifact)
    sys.setprofile(None)
    threading.setprofile(None)
    trivet = ran | {name for name in set(sys.modules) - before if name.split(".")[0] == "trivet"}
    report[artifact.name] = [sorted(trivet), artifact.roots(run.recipe)]
print(json.dumps(report))
"""
ROOMS = ("hall", "attic", "kitchen", "garage", "cellar", "office")
TEXTS = [
    {"text": f"turn {way} the {room} light", "label": way}
    for way in ("on", "off")
    for room in ROOMS
]
CHAT = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("Bye", "See you."), ("Are you a robot?", "I am a stool."))
]
TUNE = {"rank": 2, "epochs": 1, "batch": 4, "precision": "fp32"}
# Which artifacts, in their order; none named: all that the run makes.
CASES: dict[str, tuple[list[str], dict[str, Any], list[Any]]] = {
    "classify": (
        [],
        {
            "data": {"source": "x", "rows": 6},
            "tune": TUNE,
            "fpga": {"enabled": True, "bins": 16, "hidden": [4], "epochs": 2},
        },
        TEXTS,
    ),
    "generate": (
        [
            "check",
            "adapter",
            "baseline-untuned",
            "baseline-neighbour",
            "score-adapter",
            "stock-adapter",
        ],
        {"data": {"source": "x", "task": "generate"}, "tune": TUNE},
        CHAT,
    ),
}
BASELINES = {"baseline-majority", "baseline-tfidf", "baseline-embeddings"}
DECLARED = {*MACHINERY, "trivet.artifacts"}


@pytest.mark.parametrize("case", CASES)
def test_what_runs_while_it_is_built_is_in_its_key(
    case: str, small_base: Path, tmp_path: Path
) -> None:
    names, tree, rows = CASES[case]
    tree = tree | {"model": {"base": str(small_base)}}
    splits = {"train": rows, "valid": rows[:2], "test": rows}
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    command += [json.dumps(part) for part in (names, tree, splits)]
    path = {"PYTHONPATH": ":".join([str(Path(__file__).parents[1]), *sys.path])}
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    everything = {"check", "adapter", "merged", "onnx", "labels", "student", *BASELINES}
    assert set(report) >= set(names or everything | {"score-adapter", "stock-onnx-int8"})
    absent = {}
    for name, (ran, roots) in report.items():
        assert any(module in reach(roots) for module in ran)
        known = reach(roots) | DECLARED
        if more := [m for m in ran if m not in known and not m.startswith("trivet.artifacts.")]:
            absent[name] = more
    assert absent == {}
