"""What can be known before training is checked before training.

The machine (compiler, disk), the rows (classes, lengths, what is cut), the adapter's targets on the
real architecture, and three rows as tokens with those that carry loss, for a person to look at.

Not covered: the activations' part of the memory that tuning needs.
"""

import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet import UserError, extras
from trivet.artifacts.artifact import Artifact, Watch
from trivet.config.recipe import Recipe
from trivet.plugins import ARTIFACTS, BACKENDS, TASKS
from trivet.records.card import Base, Card
from trivet.records.check import Check
from trivet.tasks.example import Example, Row
from trivet.tasks.task import Task
from trivet.tasks.token_counts import TokenCounts
from trivet.tuning.adapter import ADAPTER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trivet.artifacts.run import Run

COPIES = 4  # of the base's bytes: merged, ONNX fp32, a half for int8, slack
FEW = 10_000  # rows among which the short ones for the trial in small are looked for
Rows = Mapping[str, Sequence[Row]]


class Checked(Artifact):
    """check.json: what `check` says of a run's rows, adapter and chip."""

    name = "check"
    title = "check {recipe}"
    kept_inside = True

    def settings(self, run: "Run") -> dict[str, Any]:
        recipe = run.recipe.model_dump(include={"data", "tune", "fpga"})
        decided = run.decided.get(ADAPTER.name, {})
        return {"data": run.data.source_md5, "recipe": recipe, "decided": decided}

    def roots(self, recipe: Recipe) -> tuple[str, ...]:
        from trivet.data import dataset

        task, roots = dataset.code_roots(recipe.data.task), (type(self).__module__,)
        if not recipe.tune:
            return (*roots, *task)
        # a small copy of the base goes through all of the run's artifacts and backends
        chain = (type(one).__module__ for one in (*ARTIFACTS.values(), *BACKENDS.values()))
        return (*roots, *task, type(recipe.tune).__module__, *sorted({*chain}))

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.data import dataset

        rows = dataset.stream(run.recipe.data, run.data.folder)
        check(run.recipe, rows, run.root, run.decided.get(ADAPTER.name, {})).write(folder)


CHECKED = Checked()


def machine(recipe: Recipe, root: Path) -> list[str]:
    """Raise UserError where a tool or the disk space for the run is missing; what is missing for a
    part of the run alone is returned in words. It comes before anything that takes long: a local
    base is not read, and the hub not asked, so the space for a hub's model is for `check` to see.
    """
    notes = _packages(recipe)
    if recipe.fpga.enabled and not shutil.which("g++"):
        raise UserError(
            "fpga.enabled = true, but g++ is not on the PATH: it compiles the C simulation. "
            "Install g++ (Debian, Ubuntu: apt-get install g++), or set fpga.enabled = false."
        )
    if recipe.tune:
        from trivet.tuning.base import local_folder

        if folder := local_folder(recipe.model.base):
            _space(recipe, root, folder)
    return notes


def _packages(recipe: Recipe) -> list[str]:
    """What will be missing for want of a package, and the extra that brings it; UserError where
    none of the forms that may fail could be made.
    """
    wanted = [artifact for artifact in ARTIFACTS.values() if artifact.wanted(recipe)]
    lost = {a: absent for a in wanted if (absent := [*filter(extras.absent, a.needs)])}
    notes = [
        f"{' and '.join(absent)} is not installed, so {artifact.name} will be missing: "
        f"{extras.install(extras.bringing(absent[0]))}."
        for artifact, absent in lost.items()
    ]
    optional = [artifact for artifact in wanted if artifact.optional and artifact.needs]
    if optional and all(artifact in lost for artifact in optional):
        raise UserError(f"fpga.enabled = true, but {' '.join(notes)} Or set fpga.enabled = false.")
    return notes


def _space(recipe: Recipe, root: Path, folder: Path, scoring: int = 0) -> None:
    """UserError where the workspace's disk cannot hold what is made of the base in `folder`, and
    `scoring` bytes of logits.
    """
    need = COPIES * sum(f.stat().st_size for f in folder.glob("*.safetensors")) + scoring
    free = shutil.disk_usage(root).free
    if free < need:
        raise UserError(
            f"No disk space: {root} has {free / 1e9:.1f} GB free, and a run with model.base = "
            f"'{recipe.model.base}' writes about {need / 1e9:.1f} GB (merged, ONNX, "
            "logits). Free some, set data.test lower, or remove old folders in runs/ and "
            ".trivet/store/."
        )


def check(recipe: Recipe, rows: Rows, root: Path, decided: dict[str, str]) -> Check:
    """Check the rows, the adapter and the chip's network of a recipe; writes nothing, loads no
    weights of a language model. `decided`: what the adapter's `decide` said, empty without one.

    Raises UserError naming the key to mend.
    """
    task = TASKS[recipe.data.task]
    labels = task.labels(rows["train"])
    if recipe.tune and "x" in rows["train"][0]:
        raise UserError(
            f"data.source = '{recipe.data.source}' holds numbers, and a language model reads text: "
            "take [tune] out of the recipe to train the chip's student on them."
        )
    checked = Check(
        rows={split: len(part) for split, part in rows.items()},
        labels=labels,
        tokens={},
        truncated=0,
        coverage=None,
        memory=None,
        preview=[],
        student=_student(recipe, rows["train"], root, task) if recipe.fpga.enabled else "",
    )
    if not recipe.tune:
        return checked
    return checked.model_copy(update=_adapter(recipe, rows, root, labels, decided))


def _adapter(
    recipe: Recipe, rows: Rows, root: Path, labels: list[str], decided: dict[str, str]
) -> dict[str, Any]:
    """What is known of the adapter: the fields of a Check that only a language model has."""
    from trivet.contract import trial
    from trivet.contract.reach import Reach
    from trivet.evaluate.score import batch_size
    from trivet.tuning import base

    assert recipe.tune
    task, model = TASKS[recipe.data.task], Base.model_validate_json(decided["base"])
    folder, remote = base.model_folder(model, task), model.trust_remote_code
    tokenizer = base.tokenizer_of(folder, remote)
    meta = base.load(folder, task, labels, device="meta", trust_remote_code=remote)
    coverage = recipe.tune.coverage(meta, task)
    card = Card(
        task=task.name,
        prompt=recipe.data.prompt,
        max_length=recipe.data.max_length,
        labels=labels,
        model=model,
    )
    counts = TokenCounts(task, tokenizer)
    counts.count(rows, recipe.data, card, labels)
    taught = [*filter(task.teaches, rows["train"][:FEW])]
    contract = trial.run(recipe, folder, card, taught)
    reach = Reach.of(meta)
    classes = len(labels) if task.new_head else len(tokenizer)
    stages = sum(backend.wanted(recipe) for backend in BACKENDS.values())
    scoring = 4 * counts.asked * classes * stages
    _space(recipe, root, folder, scoring)
    notes = [*counts.notes(), *reach.notes()]
    if not recipe.tune.merges:
        notes.append(
            f"tune.method = '{recipe.tune.name}' does not merge into the base: the run makes the "
            "adapter alone, and nothing for a CPU."
        )
    return {
        "tokens": {"median": statistics.median(counts.lengths), "max": max(counts.lengths)},
        "truncated": counts.truncated,
        "coverage": coverage,
        "memory": recipe.tune.memory(coverage, decided["precision"] == "bf16"),
        "scoring": scoring,
        "scoring_memory": 4 * batch_size(task) * max(counts.lengths) * classes,
        "contract": contract.model_copy(update={"reached": reach.share}),
        "preview": [_marked(e, tokenizer, task) for e in counts.first],
        "notes": notes,
    }


def _student(recipe: Recipe, rows: Sequence[Row], root: Path, task: Task) -> str:
    """The chip's network in words; UserError where it could not be built."""
    import numpy as np

    from trivet.fpga.errors import recipe_keys
    from trivet.fpga.training import prepare

    with recipe_keys():
        network, inputs = prepare(recipe.fpga, rows, root)
    classes = len(task.labels(rows))
    if network and network.shapes[-1] != (classes,):
        raise UserError(
            f"fpga.module = '{recipe.fpga.module}' gives {network.shapes[-1][0]} logits, and the "
            f"training rows have {classes} labels: make its last layer give {classes}."
        )
    sizes = [*recipe.fpga.hidden, classes]
    shapes = network.shapes if network else [np.shape(inputs.encode(rows[:1])[0]), *zip(sizes)]
    chain = " → ".join("×".join(map(str, shape)) for shape in shapes)
    return f"{inputs.kind} ({inputs.input_type}): {chain}"


def _marked(
    example: Example, tokenizer: "PreTrainedTokenizerBase", task: Task
) -> list[tuple[str, bool]]:
    """Tokens as text; marked where loss is taken: the answered position, or the reply's tokens."""
    trained = task.trained(example)
    ids = example.ids
    # each by what it adds: alone, a token has lost the space before it in some tokenizers
    texts = [str(tokenizer.decode(ids[:end])) for end in range(len(ids) + 1)]
    return [(texts[i + 1][len(texts[i]) :], i in trained) for i in range(len(ids))]
