"""The base's contract: a small copy of it goes through the whole chain before anything is tuned.

Tune, merge, ONNX, int8, decode, by the artifacts and backends of the run itself, in seconds; and
what every stage must keep is asserted of each. What cannot work is refused here, with the reason,
instead of after hours, or never.

Not covered: our kernels compared with stock ones, which tuning does on the real base; another
store than a folder that is gone afterwards.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from trivet import UserError
from trivet.artifacts.run import Run
from trivet.artifacts.store import Store
from trivet.backends.backend import Backend
from trivet.backends.gate import Points
from trivet.backends.sessions.language_model import LanguageModel
from trivet.config.recipe import Recipe
from trivet.contract import promises
from trivet.contract.shrink import write_small
from trivet.data import jsonl
from trivet.data.dataset import SPLITS
from trivet.evaluate import tolerance
from trivet.plugins import ARTIFACTS, TASKS
from trivet.records.card import Card
from trivet.records.check import Contract
from trivet.records.dataset import DataCard, DatasetVersion
from trivet.tasks.example import Row
from trivet.tuning.adapter import ADAPTER

ROWS = 4  # that the small copy is tuned on, and answers
# Two steps that move an adapter far enough for its loss to show in float32.
STEPS = {"epochs": 1, "batch": 2, "learning_rate": 0.02, "warmup": 0.0}
PLAIN = {"kernels": "peft", "precision": "fp32"}
ANOTHER = "Give a base of another architecture."


class Broken(UserError):
    """`stage`: the first backend that a small copy did not reach or answered wrong on."""

    def __init__(self, words: str, stage: str) -> None:
        super().__init__(words)
        self.stage = stage


def run(recipe: Recipe, folder: Path, card: Card, rows: Sequence[Row]) -> Contract:
    """Send a small copy of the base in `folder` through the recipe's chain. UserError where it
    breaks, naming the stage.
    """
    start, task, remote = time.process_time(), TASKS[card.task], card.model.trust_remote_code
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        try:
            write_small(folder, root / "base", task, remote)
        except UserError:
            raise
        except Exception as error:
            return Contract(skipped=f"no small copy of it could be made: {_first_line(error)}")
        promises.positions(root / "base", card, remote)
        small = _small_run(recipe, root, _few(rows, card))
        differences = _through(small, recipe.model.base)
    seconds = time.process_time() - start
    return Contract(differences=differences, cpu_seconds=round(seconds, 1))


@dataclass
class Said:
    """What the stages answered so far: logits, and the first tokens of a greedy reply."""

    logits: dict[str, np.ndarray] = field(default_factory=dict)
    reply: list[int] = field(default_factory=list)


def _through(small: Run, name: str) -> dict[str, float]:
    """Every backend of the run, each after its reference: the largest difference of the two's
    logits, as a share of the largest logit.
    """
    said = Said()
    out: dict[str, float] = {}
    backends = [b for b in small.backends() if b.artifact in _after_adapter(small)]
    for backend in backends:
        try:
            out[backend.name] = _one(small, backend, backends, said)
        except UserError as error:
            words = str(error).removeprefix("model.base: ")
            named = words if "model.base" in words else f"model.base = '{name}': {words}"
            raise Broken(named, backend.name) from None
        except Exception as error:
            words = (
                f"model.base = '{name}': a small copy of it does not come through to the stage "
                f"'{backend.name}': {_first_line(error)}. {_fix(backend)}"
            )
            raise Broken(words, backend.name) from error
    return out


def _one(small: Run, backend: Backend, backends: list[Backend], said: Said) -> float:
    """Build what the backend opens, and hold it to the promises."""
    for artifact in small.line(backend.artifact):
        small.build(artifact)
    folder, fix = small.path(backend.artifact), _fix(backend)
    session = cast(LanguageModel, backend.open(folder, 1))
    rows = jsonl.read(small.data.folder / "test.jsonl")
    logits = said.logits[backend.name] = np.concatenate(session.answer(rows))
    rounds = isinstance(backend.gate, Points)
    coarser = tolerance.unit(session) / tolerance.FLOAT32  # than float32's unit roundoff
    room = promises.INT8 if rounds else promises.Room(coarser * promises.ROUNDING)
    promises.alone(session, rows, logits, room, backend.name, fix)
    promises.shipped(folder, session)
    before = backend.reference_among(backends)
    if before is None:
        promises.first_stage(small, session, rows)
    if session.task.talks and not rounds:
        said.reply = promises.decoded(session, rows, said.reply, fix)
    if before is None:
        return 0.0
    pair = (before.name, backend.name)
    return promises.same(said.logits[before.name], logits, room, pair, fix)


def _small_run(recipe: Recipe, root: Path, rows: list[Row]) -> Run:
    """A run of the recipe's language model on a few rows, in a store of its own."""
    assert recipe.tune
    tune = recipe.tune.model_copy(update=STEPS | PLAIN)
    chip = recipe.fpga.model_copy(update={"enabled": False})
    model = recipe.model.model_copy(update={"base": str(root / "base"), "revision": ""})
    few = recipe.data.model_copy(update={"source": "contract", "rows": 0, "test": len(rows)})
    small = recipe.model_copy(update={"tune": tune, "fpga": chip, "model": model, "data": few})
    folder = root / "data" / "contract"
    folder.mkdir(parents=True)
    for split in SPLITS:
        jsonl.write(folder / f"{split}.jsonl", rows)
    counts = dict.fromkeys(SPLITS, len(rows))
    card = DataCard(
        source="contract",
        kind="",
        task=few.task,
        seed=0,
        duplicates_removed=0,
        duplicates_with_another_label=0,
        rows=counts,
        labels={},
        licence="",
        origin={},
    )
    data = DatasetVersion(folder, "contract", "contract", card, "built")
    store = root / "store"
    decided = {ADAPTER.name: ADAPTER.decide(small, root)}
    return Run(root, small, data, decided, Store(str(store), store))


def _after_adapter(small: Run) -> list[Any]:
    return [
        artifact
        for artifact in ARTIFACTS.values()
        if artifact.wanted(small.recipe) and ADAPTER in small.line(artifact)
    ]


def _few(rows: Sequence[Row], card: Card) -> list[Row]:
    """Short rows of as many kinds as there is room for, of differing lengths."""
    task = TASKS[card.task]
    by_length = sorted(rows, key=lambda row: len(str(row)))
    kinds: dict[str, Row] = {}
    for row in by_length:
        kinds.setdefault(str(task.classes(row)), row)
    few = list(kinds.values())[:ROWS]
    return [*few, *(row for row in by_length if row not in few)][:ROWS]


def _fix(backend: Backend) -> str:
    rounds = isinstance(backend.gate, Points)
    return "Set export.int8 = false, or give another base." if rounds else ANOTHER


def _first_line(error: BaseException) -> str:
    """What went wrong first: an exporter's error has it as its cause."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
