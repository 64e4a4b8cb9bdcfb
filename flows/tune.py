"""The product, top to bottom: a data set becomes a tuned model that is proven on three legs.

The recipe's rows are versioned, a language model is tuned on them, merged and exported for the CPU,
and a student distilled from it is compiled for the FPGA. Then every stage answers the same held-out
rows, one table compares each with the stage before it, and only when all gates hold is the model
registered as champion. The work itself is in `trivet`, plain functions; here is only what one sees
in the Prefect UI.

What is in the store is not built again: its task ends as Cached, with the artifact's key.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prefect import flow, get_client, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from trivet import UserError, check, registry, workspace
from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.artifacts.run import Run
from trivet.backends.backend import Backend
from trivet.config.recipe import Recipe, load
from trivet.data import dataset, versions
from trivet.evaluate import baseline, parity, stock
from trivet.evaluate.score import Scored
from trivet.flows.progress import console, done, progress, use_gpu
from trivet.fpga.facts import chip_facts
from trivet.fpga.hls import HLS
from trivet.fpga.rtl import RTL
from trivet.fpga.student import STUDENT, registered
from trivet.fpga.synthesis import SYNTHESIS
from trivet.plugins import TASKS
from trivet.records.check import Check
from trivet.records.chip import ChipFacts
from trivet.records.dataset import RunData
from trivet.records.lineage import Lineage, Registered
from trivet.records.parity import ParityTable
from trivet.records.record import Record, write_text
from trivet.records.score import Confusion, Curve, Point, Score
from trivet.records.stock import Invariance, StockCheck
from trivet.records.trial import Trial
from trivet.report import page as report
from trivet.report.curve import curve_markdown

R = TypeVar("R", bound=Record)


class Outcome(NamedTuple):
    """What a run's flow returns."""

    run: str
    folder: Path
    report: Path
    check: Check
    table: ParityTable


step: Any = {"cache_policy": NO_CACHE, "on_completion": [done], "timeout_seconds": HOUR}


@task(
    task_run_name="version {recipe.data.source}",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=lambda task, run, state: (
        not isinstance(state.result(raise_on_failure=False), UserError)
    ),
    **step,
)
def version_data(recipe: Recipe, root: Path) -> State:
    version = versions.version(recipe.data, root)
    name = "Cached" if version.changed == "unchanged" else "Completed"
    return Completed(data=version, name=name, message=f"data {version.changed}: {version.md5}")


def _title() -> str:
    parameters = runtime.task_run.parameters
    return str(parameters["artifact"].title.format(recipe=parameters["run"].recipe.name))


@task(task_run_name=_title, **step)
def _build(run: Run, artifact: Artifact, tracked: str | None = None) -> State:
    """Any artifact, unless the store has it."""
    slot = run.slot(artifact)
    if run.has(artifact):
        return Completed(data=run.path(artifact), name="Cached", message=f"unchanged: {slot}")
    notes: list[str] = []

    def on_note(line: str) -> None:
        notes.append(line)
        console.print(line, style="yellow", soft_wrap=True, markup=False)

    with use_gpu(artifact.on_gpu), progress(_title()) as on_progress:

        def on_point(point: Point) -> None:
            if tracked:
                registry.log_point(tracked, point)

        folder = run.build(artifact, Watch(on_progress, on_point, on_note))
    return Completed(data=folder, message="; ".join([slot, *notes]))


def build(artifact: Artifact) -> Any:
    """The task that builds it, with the time that the artifact may take."""
    return _build.with_options(timeout_seconds=artifact.timeout)


@task(task_run_name="prove {run.recipe.name}", **step)
def prove(run: Run, tracked: str, lost: dict[Artifact, str]) -> State:
    """The parity table, written to the run's folder and shown in the UI; `lost`: what failed."""
    known = ParityTable.read_if_there(run.folder)
    registered = registry.is_registered(run, tracked)
    if known and registered:
        return Completed(data=known, name="Cached", message=f"unchanged: {run.name}")
    run.publish()
    missing = {b: lost[b.artifact] for b in run.backends() if b.artifact in lost}
    rows = [_row(run, backend) for backend in run.backends() if backend not in missing]
    rival = None if registered else registry.rival(run, tracked)
    peers, notes = baseline.peers(run), baseline.notes(lost)
    table = parity.compare(run.recipe, run.name, rows, peers, missing, rival, notes)
    stock.publish(run, table)
    if known == table:
        return Completed(data=table, name="Cached", message=f"unchanged: {run.name}")
    artifacts = [run.path(artifact) for artifact in run.artifacts() if run.has(artifact)]
    curve, trial = _first(Curve, artifacts), _first(Trial, artifacts)
    judged = Confusion.read_if_there(rows[min(1, len(rows) - 1)].folder)  # merged, or fixed point
    if run.recipe.fpga.enabled:
        _chip_facts(run).write(run.folder)
    for record in (curve, judged, trial, rows[0].held_out(), table):
        if record:
            record.write(run.folder)
    _show(table, curve)
    return Completed(data=table, message="promoted" if table.promoted else "refused")


def _chip_facts(run: Run) -> ChipFacts:
    folders = (run.path(a) if run.has(a) else None for a in (HLS, RTL, SYNTHESIS))
    return chip_facts(run.recipe.fpga.part, run.path(STUDENT), *folders)


def _row(run: Run, backend: Backend) -> parity.Row:
    folder, check = run.path(Scored(backend)), stock.stock_of(run, backend)
    stocked = StockCheck.read(run.path(check)) if check else None
    alone = Invariance.read_if_there(folder)
    return parity.Row(backend, Score.read(folder), folder, stocked, alone)


def _first(kind: type[R], folders: list[Path]) -> R | None:
    return next((record for f in folders if (record := kind.read_if_there(f))), None)


def _show(table: ParityTable, curve: Curve | None) -> None:
    columns = ("backend", "rows", "value", "low", "high", "delta", "agreement", "max_abs_diff")
    words = {"ms_per_row", "gate", "measured", "passed"}
    rows = [
        stage.model_dump(include={*columns, *words})
        | {"delta": stage.difference and stage.difference.words(table.lower_is_better)}
        | {"without_trivet": stage.stock.words if stage.stock else "not asked"}
        | {"alone": stage.invariance.words if stage.invariance else "not asked"}
        for stage in table.stages
    ]
    lines = [f"{table.run}: {'promoted' if table.promoted else 'refused'}", *table.standing]
    create_table_artifact(rows, key="parity", description=". ".join(lines))
    if table.baselines:
        simple = [
            base.model_dump(include={"name", "value", "low", "high"})
            | {base.second.name: base.second.value}
            for base in table.baselines
        ]
        create_table_artifact(simple, key="baselines", description=f"{table.run}, the same rows")
    if curve:
        markdown = curve_markdown(curve)
        create_markdown_artifact(markdown, key="loss-curve", description="Loss curve")


@task(task_run_name="register {run.recipe.registered}", **step)
def register(run: Run, tracked: str, table: ParityTable) -> State:
    """Everything to MLflow; the alias moves only when every gate held."""
    known = registry.is_registered(run, tracked)
    if known:
        return Completed(data=known, name="Cached", message=f"{known.name} {known.version}")
    registry.log_curve(tracked, Curve.read_if_there(run.folder))
    registry.log_results(tracked, table)
    registry.log_folder(tracked, run.folder)
    model = registry.promote(run, tracked, table) if table.promoted else None
    return Completed(data=model, message=f"{model.name} {model.version}" if model else "refused")


@task(task_run_name="report {run.name}", **step)
def write_report(run: Run, tracked: str, model: Registered | None) -> State:
    page = run.folder / report.FILE
    known = Lineage.read_if_there(run.folder)
    if page.exists() and known and (known.registered, known.mlflow_run_id) == (model, tracked):
        return Completed(data=page, name="Cached", message=f"unchanged: {run.name}")
    _lineage(run, tracked, model).write(run.folder)
    report.write(run.folder)
    registry.log_folder(tracked, run.folder, only=(report.FILE, Lineage.file))
    link = f"{registry.url(tracked)}/artifacts/{report.FILE}"
    create_link_artifact(
        link, link_text=f"report of {run.name}", key="report", description=str(page)
    )
    return Completed(data=page, message=str(page))


def _lineage(run: Run, tracked: str, model: Registered | None) -> Lineage:
    git = registry.git(run.root)
    return Lineage(
        run=run.name,
        lineage=run.lineage,
        recipe=run.recipe.name,
        dvc_md5=run.data.md5,
        git_commit=git["git.commit"],
        git_dirty=git["git.dirty"] == "true",
        flow_run_id=str(runtime.flow_run.id),
        flow_run_url=runtime.flow_run.ui_url,
        mlflow_run_id=tracked,
        mlflow_url=registry.url(tracked),
        registered=model,
        keys={artifact.name: run.key(artifact) for artifact in run.artifacts()},
        decided=run.decided,
    )


@flow(name="tune", description=__doc__)
def tune(recipe: str = "flows/recipes/home.toml", overrides: list[str] | None = None) -> Outcome:
    return run_pipeline(load(recipe, overrides))


def run_pipeline(recipe: Recipe) -> Outcome:
    """The way of the data, whole; without a `[tune]` section, of the student alone."""
    run, checked = begin(recipe)
    tracked = registry.open_run(run, str(runtime.flow_run.id))
    lost = build_all(run, tracked)
    table = prove(run, tracked, lost).result()
    model = register(run, tracked, table).result()
    page = write_report(run, tracked, model).result()
    parity.check(table)
    return Outcome(run.name, run.folder, page, checked, table)


def begin(recipe: Recipe, prefix: str = "") -> tuple[Run, Check]:
    """The data's version, what hub and machine decide, asked once, and the checked rows."""
    root = workspace()
    for note in check.machine(recipe, root):
        console.print(note, style="yellow", soft_wrap=True, markup=False)
    run = Run.begin(root, recipe, version_data(recipe, root).result())
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=prefix + run.name)
    fetch_student(run)
    checked = Check.read(build(check.CHECKED)(run, check.CHECKED).result())
    for note in checked.notes:
        console.print(note, style="yellow", soft_wrap=True, markup=False)
    write_text(run.folder / "recipe.json", recipe.model_dump_json(indent=1) + "\n")
    data, task = run.data, TASKS[recipe.data.task]
    rows = dataset.stream(recipe.data, data.folder)
    RunData(
        card=data.card,
        md5=data.md5,
        rows=checked.rows,
        tokens=checked.tokens,
        truncated=checked.truncated,
        example=task.text(rows["test"][0]),
    ).write(run.folder)
    splits = [{"split": name, "rows": count} for name, count in checked.rows.items()]
    create_table_artifact(splits, key="data", description=f"{recipe.data.source}, {data.md5}")
    return run, checked


def fetch_student(run: Run) -> None:
    """The student of the registered model that a recipe names, where the chip's build takes it."""
    if run.recipe.fpga.student:
        folder = registered(run.root, run.recipe)
        if not folder.exists():
            registry.student(run.recipe.fpga.student, folder)


def build_all(run: Run, tracked: str) -> dict[Artifact, str]:
    """Every artifact, and the answers of every backend that opens it: what failed -> why.

    An optional artifact's tool may fail: what is made from it is missing, and all else goes on.
    """
    lost: dict[Artifact, str] = {}
    beside: dict[Artifact, Any] = {}
    artifacts = run.artifacts()
    for artifact in (a for a in artifacts if not a.beside):
        reason = next((lost[p] for p in artifact.parents(run.recipe) if p in lost), None)
        reason = reason or attempt(run, artifact, tracked)
        if reason:
            lost[artifact] = reason
            continue
        for other in artifacts:
            if other.beside and artifact in other.parents(run.recipe):
                beside[other] = build(other).submit(run, other)
        for backend in run.backends():
            if backend.artifact is artifact:
                scored = Scored(backend)
                build(scored)(run, scored)
                if check := stock.stock_of(run, backend):
                    build(check)(run, check)
    for future in beside.values():
        future.result()
    return lost


def attempt(run: Run, artifact: Artifact, tracked: str) -> str | None:
    """Build; why an optional artifact's tool failed, or None."""
    state = build(artifact)(run, artifact, tracked, return_state=True)
    if not state.is_failed():
        return None
    error: Any = state.result(raise_on_failure=False)
    if not (artifact.optional and isinstance(error, UserError)):
        raise error
    return str(error).rstrip(".")
