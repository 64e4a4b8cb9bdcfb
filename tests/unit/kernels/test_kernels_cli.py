"""`trivet kernels`: the table, the JSON, the refusal, and what it says without a GPU.
Run: .venv/bin/pytest tests/unit/kernels/test_kernels_cli.py
"""

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from trivet import UserError
from trivet.cli.main import app
from trivet.kernels.ops import kernel
from trivet.kernels.verify import cases, compile_matrix, verification


@pytest.fixture
def record() -> dict[str, Any]:
    """What the compiler, the interpreter and the traffic model would say is made up."""
    binaries = [j.start() for j in compile_matrix.jobs()]
    layer = {
        "shape": "M=256", "direction": "forward", "layer": "PEFT", "quantised": False,
        "launches": 7, "bytes": 2_000_000, "saved": 0, "compulsory": 1_000_000, "ratio": 2.0,
        "flops": 9,
    }  # fmt: skip
    return {
        "kernels": [vars(c) | {"registers": 7, "matrix": 3} for c in binaries],
        "faults": ["lora_forward_kernel spills"],
        "errors": [
            {"op": op.name, "ratio": 1.25, "bound": op.error, "dtype": "bfloat16",
             "dims": {"M": 70}, "launches": op.launches, "seed": 0}
            for op in cases.ops()
        ],
        "traffic": [layer | {"layer": "ours"}, layer],
        "versions": {"torch": "1", "triton": "2"},
    }  # fmt: skip


def test_the_table_and_the_refusal(monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]) -> None:
    monkeypatch.setattr(verification, "collect", lambda on_progress: record)
    table = CliRunner().invoke(app, ["kernels"])
    assert table.exit_code == 3
    assert "Refused: lora_forward_kernel spills" in table.stderr
    assert "lora_linear" in table.stdout and "7/3" in table.stdout and "PEFT" in table.stdout
    text = CliRunner().invoke(app, ["kernels", "--json"]).stdout
    assert json.loads(text)["errors"] == record["errors"]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["kernels", "bench"])
    assert isinstance(result.exception, UserError)
