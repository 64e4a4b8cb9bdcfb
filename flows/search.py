"""The search for the student that the chip can hold, as one watches it: each trial is a flow run.

The tuned model labels the pool once; then students of many sizes, widths and sparsities learn from
it, as many at a time as there are cores, and are judged on validation rows, by the Verilog
compiler's cost and by their cycles. A trial that is done is a file and is not done again, so the
same command goes on where it was stopped.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from prefect import flow, runtime
from prefect.artifacts import create_table_artifact
from pydantic import ConfigDict, Field

from trivet import registry
from trivet.artifacts.run import Run
from trivet.config.recipe import load_chip
from trivet.data import dataset
from trivet.flows.progress import progress
from trivet.flows.tune import begin, build
from trivet.fpga.errors import recipe_keys
from trivet.fpga.searched import SEARCHED, search_rows
from trivet.fpga.student import STUDENT
from trivet.fpga.teacher import logits
from trivet.hw.search.pareto import choose, draw, front
from trivet.hw.search.space import propose, space
from trivet.hw.search.trial import Point, Trial, evaluate, load, store
from trivet.plugins import TASKS
from trivet.records.record import Record


class ParetoRow(Record):
    """A student that no other beats, in words; `mark`: the one to take."""

    model_config = ConfigDict(populate_by_name=True)
    file: ClassVar[str] = "pareto.json"

    mark: str = Field("", alias=" ")
    accuracy: str
    lut: str = Field(alias="LUT")
    cycles: int
    hidden: str
    student: str


class SearchResult(Record):
    file: ClassVar[str] = "result.json"

    recipe: str
    folder: str
    trials: int
    pareto: list[ParetoRow]
    chosen: Trial


@flow(name="fpga-search", description=__doc__)
def fpga_search(
    recipe: str = "flows/recipes/home.toml", overrides: list[str] | None = None
) -> SearchResult:
    chosen = load_chip(recipe, overrides)
    run, _ = begin(chosen, "search ")
    if chosen.tune:
        tracked = registry.open_run(run, str(runtime.flow_run.id))
        for artifact in run.line(STUDENT)[:-1]:  # up to its teacher
            build(artifact)(run, artifact, tracked)

    folder = run.root / ".trivet" / "searches" / run.slot(SEARCHED)
    trials = try_students(run, folder)
    with recipe_keys():
        best = choose(trials, chosen.fpga.max_lut, chosen.fpga.max_cycles)
    for kind in ("svg", "png"):
        draw(trials, best, folder / f"pareto.{kind}", chosen.fpga.max_lut)
    best.write(folder)
    rows = [_row(trial, "★" if trial == best else "") for trial in front(trials)]
    table = [row.model_dump(by_alias=True, exclude={"version"}) for row in rows]
    create_table_artifact(table, key="pareto", description=f"{len(trials)} students of {run.name}")
    return SearchResult(
        recipe=recipe, folder=str(folder), trials=len(trials), pareto=rows, chosen=best
    )


def try_students(run: Run, folder: Path) -> list[Trial]:
    """Trials until there are `fpga.search_trials`, in processes; those of a former search count."""
    chip, task = run.recipe.fpga, TASKS[run.recipe.data.task]
    rows = dataset.read(run.recipe.data, run.data.folder)
    with recipe_keys():
        learnt, network = search_rows(
            chip, run.root, rows, task.labels(rows["train"]), logits(run, STUDENT)
        )
    weighted = sum(step.kind != "sum" for step in network.steps) if network else 0
    ranges = space(() if network else chip.hidden, weighted or len(chip.hidden) + 1)
    trials = load(folder / "trials")
    cores = os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(cores, spawn, torch.set_num_threads, (1,)) as processes,
        ThreadPoolExecutor(cores) as watched,
        progress(f"search students of {run.recipe.name}") as on_progress,
    ):

        @flow(name="fpga-trial", flow_run_name="{name}")
        def try_student(name: str, point: Point) -> ParetoRow:
            job = processes.submit(evaluate, point, learnt, chip.epochs, chip.seed, network)
            trial = job.result()
            store(trial, folder / "trials")
            return _row(trial)

        while left := chip.search_trials - len(trials):
            on_progress(len(trials) / chip.search_trials)
            points = propose(ranges, trials, chip.seed, min(left, 2 * cores))
            if not points or left < 0:
                break
            names = [f"trial {len(trials) + at}" for at in range(1, len(points) + 1)]
            jobs = [
                watched.submit(copy_context().run, partial(try_student, name, point))
                for name, point in zip(names, points, strict=True)
            ]
            for job in jobs:
                job.result()
            trials = load(folder / "trials")
    return trials


def _row(trial: Trial, mark: str = "") -> ParetoRow:
    point = {k: "/".join(map(str, v)) for k, v in trial.point.model_dump().items()}
    zero = "/".join(f"{100 * share:.0f}" for share in trial.point.sparsity)
    words = f"weights {point['weight_bits']} bit, {zero} % zero; activations "
    return ParetoRow(
        mark=mark,
        accuracy=f"{trial.accuracy:.1%}",
        lut=f"{trial.lut:,.0f}",
        cycles=trial.cycles,
        hidden=point["hidden"] or "own",
        student=words + f"{point['activation_bits']} bit",
    )
