"""The product, top to bottom: a data set becomes a tuned model that is proven on three legs.

The recipe's rows are versioned, a language model is tuned on them, merged and exported for the CPU,
and a student distilled from it is compiled for the FPGA. Then every hop answers the same held-out
rows, one table compares each with the hop before it, and only when all gates hold is the model
registered as champion. The work itself is in `steps/`, plain functions; here is only what one sees
in the Prefect UI.

A task whose lineage key is unchanged is cached. Its record lies beside what it made, so that
deleting a folder also forgets it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import flow, get_client, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency
from prefect.states import Completed, State

from .. import UserError, workspace
from . import progress as shown
from .recipe import Recipe, load
from .steps import artifacts, check, chip, data, parity, registry, report
from .steps.backends import LEGS, backends_of
from .steps.run import Run

HOUR = 3600


def made(artifact: str) -> Any:
    """Cache key of a task that builds an artifact in the store."""
    return lambda _, inputs: f"{inputs['run'].path(_named(artifact, inputs))}/.record"


def _named(artifact: str, inputs: dict[str, Any]) -> str:
    return artifact.format(name=inputs.get("name"))


def about(step: str) -> Any:
    """Cache key of a task that writes into the run's own folder; what lacks a hop has another."""
    return lambda _, inputs: "-".join(
        [f"{inputs['run'].folder}/.record/{step}", *inputs.get("missing", ())]
    )


@contextmanager
def gpu() -> Iterator[None]:
    """One run at a time on the GPU, where there is one."""
    if not torch.cuda.is_available():
        yield
        return
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("gpu", 1)
    with concurrency("gpu", occupy=1, lease_duration=60):  # a killed holder blocks for that long
        yield


# Cache keys are paths: a record is a file among what the task made, found again from any clone.
step: Any = partial(
    task,
    persist_result=True,
    result_storage=Path("/"),
    result_serializer="json",
    on_completion=[shown.done],
)


@task(
    task_run_name="version {recipe.data.source}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=lambda task, run, state: (
        not isinstance(state.result(raise_on_failure=False), UserError)
    ),
    timeout_seconds=HOUR,
    on_completion=[shown.done],
)
def version_data(recipe: Recipe, root: Path) -> State:
    found = data.version(recipe, root)
    name = "Cached" if found.changed == "unchanged" else "Completed"
    return Completed(data=found, name=name, message=f"data {found.changed}: {found.md5}")


@step(cache_key_fn=about("check"), task_run_name="check {run.recipe.name}", timeout_seconds=HOUR)
def check_rows(run: Run) -> dict[str, Any]:
    check.machine(run.recipe, run.root)
    found = check.check(run.recipe, data.read(run.recipe, run.data.folder), run.root)
    card = {**run.data.card, "md5": run.data.md5, "rows": found.rows, "tokens": found.tokens}
    card["truncated"] = found.truncated
    run.write("recipe.json", run.recipe.model_dump())
    run.write("data.json", card)
    table = [{"split": k, "rows": v} for k, v in found.rows.items()]
    create_table_artifact(
        table, key="data", description=f"{run.recipe.data.source}, {run.data.md5}"
    )
    return found.as_dict()


@step(
    cache_key_fn=made("adapter"), task_run_name="tune {run.recipe.name}", timeout_seconds=24 * HOUR
)
def tune_adapter(run: Run, tracked: str) -> None:
    with gpu(), shown.progress(f"tune {run.recipe.name}") as tell:

        def on_step(point: dict[str, Any], share: float) -> None:
            registry.log_point(tracked, point)
            tell(share)

        artifacts.adapter(run, on_step)


@step(cache_key_fn=made("merged"), task_run_name="merge {run.recipe.name}", timeout_seconds=HOUR)
def merge_adapter(run: Run) -> None:
    artifacts.merged(run)


@step(
    cache_key_fn=made("onnx"),
    task_run_name="export {run.recipe.name} to ONNX",
    timeout_seconds=HOUR,
)
def export_onnx(run: Run) -> None:
    artifacts.onnx(run)


@step(
    cache_key_fn=made("labels"),
    task_run_name="label the pool of {run.recipe.name}",
    timeout_seconds=6 * HOUR,
)
def label_pool(run: Run) -> None:
    with gpu(), shown.progress(f"label the pool of {run.recipe.name}") as tell:
        artifacts.labels(run, tell)


@step(
    cache_key_fn=made("student"), task_run_name="distil {run.recipe.name}", timeout_seconds=6 * HOUR
)
def distil_student(run: Run) -> None:
    with gpu(), shown.progress(f"distil {run.recipe.name}") as tell:
        artifacts.student(run, tell)


@step(
    cache_key_fn=made("hls"),
    task_run_name="compile {run.recipe.name} for C simulation",
    timeout_seconds=HOUR,
)
def compile_hls(run: Run) -> None:
    artifacts.hls(run)


@step(
    cache_key_fn=made("verilog"),
    task_run_name="compile {run.recipe.name} to Verilog",
    timeout_seconds=HOUR,
)
def compile_verilog(run: Run) -> None:
    artifacts.verilog(run)


@step(
    cache_key_fn=made("rtl"),
    task_run_name="compile {run.recipe.name} for RTL simulation",
    timeout_seconds=HOUR,
)
def compile_rtl(run: Run) -> None:
    artifacts.rtl(run)


@step(
    cache_key_fn=made("synth"), task_run_name="synthesise {run.recipe.name}", timeout_seconds=HOUR
)
def synthesise(run: Run) -> None:
    artifacts.synth(run)


@step(cache_key_fn=made("score-{name}"), task_run_name="score {name}", timeout_seconds=6 * HOUR)
def score_backend(run: Run, name: str) -> None:
    with gpu(), shown.progress(f"score {name}") as tell:
        artifacts.scored(run, name, tell)


@step(cache_key_fn=about("prove"), task_run_name="prove {run.recipe.name}", timeout_seconds=HOUR)
def prove(run: Run, missing: dict[str, str]) -> dict[str, Any]:
    """The parity table, written to the run's folder and shown in the UI."""
    run.publish()
    scored = [artifacts.scored(run, n) for n in backends_of(run.recipe) if n not in missing]
    baseline = artifacts.baseline(run)
    if run.recipe.data.task == "classify":
        judged = scored[min(1, len(scored) - 1)]  # merged, or student-fixed
        run.write("confusion.json", judged.score["confusion"])
    threads = torch.get_num_threads()
    table = parity.table(run.recipe, run.name, scored, baseline, threads, missing)
    curve = artifacts.curve(run)
    if run.recipe.fpga.enabled:
        run.write("fpga.json", chip.facts(run, table))
    if run.recipe.tune:
        run.write("curve.json", curve)
    run.write("parity.json", table)
    _show(table, curve)
    return table


def _show(table: dict[str, Any], curve: list[dict[str, Any]]) -> None:
    columns = (
        "backend",
        "rows",
        "value",
        "delta",
        "agreement",
        "max_abs_diff",
        "ms_per_row",
        "gate",
        "passed",
    )
    verdict = "promoted" if table["promoted"] else "refused"
    rows = [{c: hop[c] for c in columns} for hop in table["hops"]]
    create_table_artifact(rows, key="parity", description=f"{table['run']}: {verdict}")
    if curve:
        create_markdown_artifact(
            report.curve_markdown(curve), key="loss-curve", description="Loss curve"
        )


@step(
    cache_key_fn=about("register"),
    task_run_name="register {run.recipe.registered}",
    timeout_seconds=HOUR,
)
def register(
    run: Run, tracked: str, table: dict[str, Any], missing: dict[str, str]
) -> dict[str, str] | None:
    """Everything to MLflow; the alias moves only when every gate held."""
    registry.log_curve(tracked, artifacts.curve(run))
    registry.log_results(tracked, run, table)
    registry.log_artifacts(tracked, run.folder)
    return registry.promote(run, tracked) if table["promoted"] else None


@step(cache_key_fn=about("report"), task_run_name="report {run.name}", timeout_seconds=HOUR)
def write_report(
    run: Run, tracked: str, registered: dict[str, str] | None, missing: dict[str, str]
) -> str:
    git = registry.git(run.root)
    run.write(
        "lineage.json",
        {
            "run": run.name,
            "lineage": run.lineage,
            "recipe": run.recipe.name,
            "dvc_md5": run.data.md5,
            "git_commit": git["git.commit"],
            "git_dirty": git["git.dirty"] == "true",
            "flow_run_id": str(runtime.flow_run.id),
            "flow_run_url": runtime.flow_run.ui_url,
            "mlflow_run_id": tracked,
            "mlflow_url": registry.url(tracked),
            "registered": registered,
        },
    )
    page = report.write(run.folder)
    registry.log_artifacts(tracked, run.folder, only=("report.html", "lineage.json"))
    link = f"{registry.url(tracked)}/artifacts/report.html"
    create_link_artifact(
        link, link_text=f"report of {run.name}", key="report", description=str(page)
    )
    return str(page)


@flow(name="tune", description=__doc__)
def tune(
    recipe: str = "flows/recipes/home.toml", overrides: list[str] | None = None
) -> dict[str, Any]:
    return follow(load(recipe, overrides))


def follow(chosen: Recipe) -> dict[str, Any]:
    """The way of the data, whole; without a `[tune]` section, of the student alone."""
    root = workspace()
    run = Run(root, chosen, version_data(chosen, root).result())
    rename(run.name)
    found = check_rows(run)
    tracked = registry.open_run(run, str(runtime.flow_run.id))

    if chosen.tune:
        tune_adapter(run, tracked)
        merge_adapter(run)
        export_onnx(run)
    for name in backends_of(chosen):
        if name not in LEGS["fpga"]:
            score_backend(run, name)
    missing: dict[str, str] = {}
    if chosen.fpga.enabled:
        if chosen.tune:
            label_pool(run)
        distil_student(run)
        missing = build_chip(run)

    table = prove(run, missing)
    registered = register(run, tracked, table, missing)
    page = write_report(run, tracked, registered, missing)
    parity.check(table)
    return {
        "run": run.name,
        "folder": str(run.folder),
        "report": page,
        "check": found,
        "parity": table,
    }


def build_chip(run: Run) -> dict[str, str]:
    """The ways to the FPGA, each tried whatever becomes of the others: backend -> what failed.

    The chip's backends are scored while the synthesis runs beside.
    """
    missing: dict[str, str] = {}
    ways = {"hls-csim": compile_hls, "alkaid": compile_verilog, "rtl": compile_rtl}
    for backend, build in ways.items():
        if backend == "rtl" and "alkaid" in missing:
            missing["rtl"] = missing["alkaid"]
            continue
        state = build(run, return_state=True)
        if state.is_failed():
            why = state.result(raise_on_failure=False)
            if not isinstance(why, UserError):
                raise why
            missing[backend] = str(why).rstrip(".")
    area = synthesise.submit(run) if "alkaid" not in missing else None
    for name in LEGS["fpga"]:
        if name not in missing:
            score_backend(run, name)
    if area:
        area.result()
    return missing


def rename(name: str) -> None:
    """Give the flow run the run's name, known only once the data has its version."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=name)
