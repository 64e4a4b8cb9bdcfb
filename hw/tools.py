"""Programs that others wrote, run so that they end: a time limit, a log, nothing left behind.

Not here: where each program comes from and what its failure means; its caller says that.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from trivet.hw.errors import ToolError


def run(
    command: Sequence[str],
    folder: Path,
    log: Path,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command in `folder`; all that it prints goes to `log`.

    After `timeout` seconds it is killed with every process that it started. `env` is added to
    ours. Raises ToolError, in a few words, when the program is missing, fails or was killed.
    """
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | dict(env or {}),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ToolError(f"{command[0]} was not found") from None
        name = Path(command[0]).name
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ToolError(f"{name} was stopped after {timeout:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        raise ToolError(f"{name} failed with {code}")


def first_error(log: Path) -> str:
    """The first line of a log that speaks of an error, at most 300 characters of it."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in lines if "rror" in line), "no error in its log")[:300]
