"""A backend is one file: this one. It answers through stock transformers in float16 on the CPU."""

import json
import sys
from pathlib import Path
from typing import Any

from trivet.backends.backend import Backend, Session, Target
from trivet.backends.gate import Agreement
from trivet.backends.merged import WHOLE
from trivet.export.merged import MERGED
from trivet.plugins import BACKENDS

PHONE = Target("phone", "Phone", "half precision")


class ToyHalf(Backend):
    name = "toy-half"
    artifact = MERGED
    reference = WHOLE
    gate = Agreement("toy_half_agreement", 0.9)
    target = PHONE
    words = "float16, stock transformers"
    snippet = "transformers"

    def open(self, folder: Path, threads: int = 0) -> Session:
        session: Any = WHOLE.open(folder)
        session.model = session.model.half()
        return session


if "pytest" not in sys.modules:  # in the product's process, not in the one that collects tests
    BACKENDS.add(ToyHalf())


def test_a_backend_is_scored_gated_asked_and_reported(
    trivet: Any, clone: Path, small: list[str]
) -> None:
    words = [*small, "track.model=toy-backend"]
    run = ("run", "home-smollm2.toml", *words)
    done = trivet(*run, "--json", plugin="test_toy_backend")
    table = json.loads(done.stdout.splitlines()[-1])
    stage = {s["backend"]: s for s in table["stages"]}["toy-half"]
    assert stage["reference"] == "merged" and stage["target"] == "phone" and stage["passed"]
    assert stage["gate"] == "agreement with merged at least 0.9"
    assert 0 < stage["max_abs_diff"] < 1  # half precision is not the same numbers

    folder = clone / "runs" / table["run"]
    page = (folder / "report.html").read_text()
    assert "toy-half" in page and "Phone" in page and "float16, stock transformers" in page

    answer = trivet(
        "predict",
        table["run"],
        "turn on the light",
        "--backend",
        "toy-half",
        "--json",
        plugin="test_toy_backend",
    )
    assert json.loads(answer.stdout)["backend"] == "toy-half"
    assert "toy-half" in trivet("predict", "--help", plugin="test_toy_backend").stdout
    assert "toy-half" not in trivet("predict", "--help").stdout

    refused = trivet(
        *run,
        "gates.toy_half_agreement=1.0",
        "gates.min_value=0.999",
        rc=None,
        plugin="test_toy_backend",
    )
    assert refused.returncode == 3 and "Refused: adapter" in refused.stdout
    assert trivet(*run, "gates.toy_half_agreement=1.0", rc=2).stderr.count("toy_half_agreement")
