"""The search for the student that the chip can hold, as one watches it: each trial is a flow run.

The tuned model labels the pool once; then students of many sizes, widths and sparsities learn from
it, as many at a time as there are cores, and are judged on validation rows, by the Verilog
compiler's cost and by their cycles. A trial that is done is a file and is not done again, so the
same command goes on where it was stopped.
"""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import flow, runtime
from prefect.artifacts import create_table_artifact

from .. import workspace
from ..hw import search
from . import progress as shown
from .pipeline import (
    check_rows,
    export_onnx,
    label_pool,
    merge_adapter,
    rename,
    tune_adapter,
    version_data,
)
from .recipe import load_chip
from .steps import artifacts, registry
from .steps.run import Run


@flow(name="fpga-search", description=__doc__)
def fpga_search(
    recipe: str = "flows/recipes/home.toml", overrides: list[str] | None = None
) -> dict[str, Any]:
    chosen, root = load_chip(recipe, overrides), workspace()
    run = Run(root, chosen, version_data(chosen, root).result())
    rename(f"search {run.name}")
    check_rows(run)
    if chosen.tune:
        tracked = registry.open_run(run, str(runtime.flow_run.id))
        tune_adapter(run, tracked)
        merge_adapter(run)
        export_onnx(run)
        label_pool(run)

    folder = run.path("search")
    trials = try_students(run, folder)
    best = search.choose(trials, chosen.fpga.max_lut, chosen.fpga.max_cycles)
    for kind in ("svg", "png"):
        search.picture(trials, best, folder / f"pareto.{kind}", chosen.fpga.max_lut)
    (folder / "chosen.json").write_text(json.dumps(best, indent=1) + "\n")
    front = [{"": "★" if t == best else ""} | _row(t) for t in search.pareto(trials)]
    create_table_artifact(front, key="pareto", description=f"{len(trials)} students of {run.name}")
    found = {"recipe": recipe, "folder": str(folder), "trials": len(trials)}
    return found | {"pareto": front, "chosen": best}


def try_students(run: Run, folder: Path) -> list[search.Trial]:
    """Trials until there are `fpga.search_trials`, in processes; those of a former search count."""
    chip, (rows, network) = run.recipe.fpga, artifacts.searched(run)
    weighted = sum(step.kind != "sum" for step in network.steps) if network else 0
    space = search.space(() if network else chip.hidden, weighted or len(chip.hidden) + 1)
    done = search.read(folder / "trials")
    cores = os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(cores, spawn, torch.set_num_threads, (1,)) as processes,
        ThreadPoolExecutor(cores) as watched,
        shown.progress(f"search students of {run.recipe.name}") as tell,
    ):

        @flow(name="fpga-trial", flow_run_name="{name}")
        def trial(name: str, point: dict[str, Any]) -> dict[str, Any]:
            job = processes.submit(search.evaluate, point, rows, chip.epochs, chip.seed, network)
            search.write(found := job.result(), folder / "trials")
            return _row(found)

        while left := chip.search_trials - len(done):
            tell(len(done) / chip.search_trials)
            points = search.propose(space, done, chip.seed, min(left, 2 * cores))
            if not points or left < 0:
                break
            names = [f"trial {len(done) + at}" for at in range(1, len(points) + 1)]
            started = [
                watched.submit(copy_context().run, partial(trial, name, point))
                for name, point in zip(names, points, strict=True)
            ]
            for job in started:
                job.result()
            done = search.read(folder / "trials")
    return done


def _row(trial: search.Trial) -> dict[str, Any]:
    point = {name: "/".join(map(str, values)) for name, values in trial["point"].items()}
    zero = "/".join(f"{100 * share:.0f}" for share in trial["point"]["sparsity"])
    words = f"weights {point['weight_bits']} bit, {zero} % zero; activations "
    return {
        "accuracy": f"{trial['accuracy']:.1%}",
        "LUT": f"{search.lut(trial):,.0f}",
        "cycles": trial["cycles"],
        "hidden": point.get("hidden", "own"),
        "student": words + f"{point['activation_bits']} bit",
    }
