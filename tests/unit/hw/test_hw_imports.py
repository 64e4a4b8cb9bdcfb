"""What hw imports: nothing of the rest of Trivet, no stage from the network, no tool until it runs.

An artifact's key is found from the imports of what builds it, so these are promises.
Run: .venv/bin/pytest tests/unit/hw/test_hw_imports.py
"""

import ast
import subprocess
import sys
from pathlib import Path

import trivet.hw

ROOT = Path(trivet.hw.__file__).parent
STAGES = ("trivet.hw.hls", "trivet.hw.rtl", "trivet.hw.synth", "trivet.hw.search")
FILES = {
    f"trivet.hw.{'.'.join(file.relative_to(ROOT).with_suffix('').parts)}".removesuffix(
        ".__init__"
    ): file
    for file in ROOT.rglob("*.py")
}


def imports(module: str) -> set[str]:
    """The modules that one imports, wherever in it; of a package the modules, too."""
    names = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names |= {node.module or ""}
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reached(module: str) -> set[str]:
    """The modules of hw that an import of `module` can load."""
    seen, left = set[str](), [module]
    while left:
        seen.add(one := left.pop())
        left += [name for name in imports(one) if name in FILES and name not in seen]
    return seen


def test_hw_knows_nothing_of_the_rest() -> None:
    assert len(FILES) > 20
    outside = {
        name
        for module in FILES
        for name in imports(module)
        if name.split(".")[0] == "trivet" and not f"{name}.".startswith("trivet.hw.")
    }
    assert not outside


def test_the_network_reaches_no_stage() -> None:
    for name in ("fixed", "network", "qat", "distill", "features", "module", "vectors"):
        assert not [one for one in reached(f"trivet.hw.{name}") if one.startswith(STAGES)]
    assert "trivet.hw.rtl.verilog" in reached("trivet.hw.search.trial")  # so they can be seen
    hls, rtl = reached("trivet.hw.hls.project"), reached("trivet.hw.rtl.project")
    assert not [one for one in hls if one.startswith(("trivet.hw.rtl", "trivet.hw.synth"))]
    assert not [one for one in rtl if one.startswith(("trivet.hw.hls", "trivet.hw.synth"))]


def test_no_tool_is_imported_before_it_runs() -> None:
    tools = ("hls4ml", "alkaid", "pyosys", "optuna", "sklearn", "matplotlib", "prefect", "mlflow")
    script = (
        f"import sys, {', '.join(sorted(FILES))}; print(*set(sys.modules) & {set(tools)!r}, 'none')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["none"], done.stdout + done.stderr
