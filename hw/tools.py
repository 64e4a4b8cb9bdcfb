"""Programs that others wrote, run so that they end: a time limit, a log, nothing left behind.

Not here: where each program comes from and what its failure means; its caller says that.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(
    words: Sequence[str],
    folder: Path,
    log: Path,
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command in `folder`; all that it prints goes to `log`. What went wrong, or "".

    After `seconds` it is killed with every process that it started. `environment` is added to ours.
    """
    with log.open("w") as told:
        try:
            process = subprocess.Popen(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        except FileNotFoundError:
            return f"{words[0]} was not found"
        try:
            code = process.wait(seconds)
            return f"{Path(words[0]).name} failed with {code}" if code else ""
        except subprocess.TimeoutExpired:
            return f"{Path(words[0]).name} was stopped after {seconds:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
