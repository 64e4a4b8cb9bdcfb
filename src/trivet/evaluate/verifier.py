"""verify.py: one plain file, put together from the parts in `stock/`, and run without Trivet.

A part is a module that lint and types are checked of; here its imports go to the top, those of
other parts go away, and the rest follows under its own title. What is run is always Trivet's own
text of it, never a file that lies in a folder.
"""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trivet.backends.backend import Backend
    from trivet.tasks.task import Task

FILE = "verify.py"
FRAME = "trivet.stock.verify"
# `import trivet` raises ImportError in there, and no module of the working folder is found.
ISOLATED = (
    "import runpy, sys; sys.modules['trivet'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


class Part(NamedTuple):
    title: str
    imports: list[str]
    body: str


def modules(task: "Task", backend: "Backend") -> tuple[str, ...]:
    """The parts of a task's and a backend's verify.py; none where either of them brings none."""
    return (backend.stock, task.stock, FRAME) if backend.stock and task.stock else ()


def text(task: "Task", backend: "Backend") -> str:
    """verify.py of a folder that `backend` opens, with answers of `task`."""
    *others, frame = (_part(name) for name in modules(task, backend))
    lines = sorted({line for part in (*others, frame) for line in part.imports}, key=_place)
    third = [line for line in lines if _place(line)[0]]
    imports = "\n".join([*lines[: -len(third)], "", *third])
    needs = " ".join(sorted({line.split()[1].split(".")[0] for line in third}))
    head = f'"""{frame.title}\n\nNeeds: pip install {needs}\n"""'
    blocks = []
    for part in others:
        title = "\n".join(f"# {line}".rstrip() for line in part.title.splitlines())
        blocks.append(f"{title}\n{part.body}")
    blocks.append(f"# Reading, comparing, telling.\n{frame.body}")
    return f"{head}\n\n{imports}\n\n\n" + "\n\n\n".join(blocks) + "\n"


def run(file: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A verify.py in a process of its own, in which `trivet` cannot be imported."""
    return subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED, str(file), *words], capture_output=True, text=True
    )


def _part(module: str) -> Part:
    spec = find_spec(module)
    assert spec and spec.origin
    source = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(source)
    top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = [ast.unparse(node) for node in top]
    body = source.splitlines()[max(node.end_lineno or 0 for node in top) :]
    theirs = [line for line in lines if not line.split()[1].startswith("trivet.")]
    return Part(ast.get_docstring(tree) or "", theirs, "\n".join(body).strip())


def _place(line: str) -> tuple[bool, bool, str]:
    """Standard library first; `import` before `from`."""
    words = line.split()
    third = words[1].split(".")[0] not in sys.stdlib_module_names
    return third, words[0] == "from", line
