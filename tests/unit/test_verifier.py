"""verify.py as it goes out: plain, whole, and with nothing of Trivet in it.

Run: pytest tests/unit/test_verifier.py
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from trivet.evaluate import verifier
from trivet.plugins import BACKENDS, TASKS

PUBLIC = {
    "adapter": {"numpy", "peft", "torch", "transformers"},
    "merged": {"numpy", "peft", "torch", "transformers"},
    "onnx-fp32": {"jinja2", "numpy", "onnxruntime", "tokenizers"},
}


@pytest.mark.parametrize("backend", list(PUBLIC))
@pytest.mark.parametrize("task", list(TASKS))
def test_it_imports_the_public_runtime_alone(task: str, backend: str, tmp_path: Path) -> None:
    text = verifier.text(TASKS[task], BACKENDS[backend])
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - sys.stdlib_module_names == PUBLIC[backend]
    assert len(text.splitlines()) < 300
    file = tmp_path / "verify.py"
    file.write_text(text)
    rules = ["--isolated", "--line-length", "100", "--select", "E,F,I,UP,B"]
    ruff = [str(Path(sys.executable).with_name("ruff"))]
    subprocess.run([*ruff, "check", *rules, str(file)], check=True)
    subprocess.run(
        [*ruff, "format", "--isolated", "--line-length", "100", "--check", str(file)], check=True
    )


def test_each_language_model_backend_and_task_brings_its_part() -> None:
    for task in TASKS.values():
        for name in PUBLIC:
            assert verifier.modules(task, BACKENDS[name])
    assert not verifier.modules(TASKS["classify"], BACKENDS["student-float"])
