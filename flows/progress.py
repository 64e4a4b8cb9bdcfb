"""Long work, as one sees it: a bar in the terminal and a progress artifact in the Prefect UI.

And as it shares the machine: one run at a time on the GPU.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.concurrency.sync import concurrency
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


@contextmanager
def use_gpu(wanted: bool = True) -> Iterator[None]:
    """One run at a time on the GPU, where there is one."""
    import torch

    if not (wanted and torch.cuda.is_available()):
        yield
        return
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("gpu", 1)
    with concurrency("gpu", occupy=1, lease_duration=60):  # a killed holder blocks for that long
        yield


@contextmanager
def progress(subject: str) -> Iterator[Callable[[float], None]]:
    """Gives a function that takes the share of the work done, 0-1. The UI hears it each 2 s."""
    key = re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=key, description=subject))
    sent = time.monotonic()
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        row = bar.add_task(subject, total=1.0)

        def on_progress(share: float) -> None:
            nonlocal sent
            bar.update(row, completed=share)
            if time.monotonic() - sent > 2:
                update_progress_artifact(artifact, progress=100 * share)
                sent = time.monotonic()

        yield on_progress
    update_progress_artifact(artifact, progress=100.0)


def done(task: Any, task_run: Any, state: Any) -> None:
    """Say that a task ended: how long it took, or that nothing had changed."""
    cached = state.name == "Cached"
    seconds = "cached" if cached else f"{task_run.total_run_time.total_seconds():.1f} s"
    name = task_run.name.removesuffix(f"-{task_run.dynamic_key}")
    console.print(f"  [green]✓[/] {name} [dim]· {seconds}[/]")
