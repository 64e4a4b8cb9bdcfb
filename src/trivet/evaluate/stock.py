"""Every held-out row answered once more, by stock libraries and by other lines than the scorer's.

All stages share a tokeniser call, a padder and a scorer, so what these do wrong scores 100 %
agreement. Here the folder's own verify.py asks the artifact as a stranger would, each row alone and
without padding, in a process where Trivet cannot be imported; what it hears must be what the table
holds. Its rows go out with the folder (`publish`), and `check_folder` asks them again years later.

Not covered: backends without a runtime of their own beside Trivet, such as the chip's, and bases
that run code of their own; the table says so.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trivet import UserError
from trivet.artifacts.artifact import HOUR, Artifact, Watch
from trivet.evaluate import tolerance, verifier
from trivet.evaluate.score import LOGITS, REPLIES_FILE, REPLY_TOKENS, Scored
from trivet.plugins import BACKENDS, TASKS
from trivet.records.card import Card
from trivet.records.record import write_text
from trivet.records.score import Score
from trivet.records.stock import StockCheck
from trivet.tasks.example import Row

if TYPE_CHECKING:
    from trivet.artifacts.run import Run
    from trivet.backends.backend import Backend
    from trivet.config.recipe import Recipe
    from trivet.records.parity import ParityTable

GOLDEN = "golden.jsonl"
SHIPPED = 64  # rows that go out with a folder
TALKS = 8  # of a task that talks, rows whose greedy reply is compared: each token asks the model


def stock_of(run: "Run", backend: "Backend") -> "Stock | None":
    """The check of a backend of the run; None where it has none (`why_none`)."""
    return None if why_none(run.recipe, backend) else Stock(backend)


def why_none(recipe: "Recipe", backend: "Backend") -> str:
    """Why a backend is not asked without Trivet; empty where it is."""
    task = TASKS[recipe.data.task]
    if not backend.stock:
        return "it has no runtime without Trivet"
    if not task.stock:
        return f"the task '{task.name}' brings no part of {verifier.FILE}"
    if recipe.model.trust_remote_code:
        return f"its base runs code of its own, and {verifier.FILE} runs none"
    return ""


class Stock(Artifact):
    """stock.json; verify.py and golden.jsonl, all rows of one backend."""

    on_gpu = True
    kept_inside = True
    timeout = 6 * HOUR

    def __init__(self, backend: "Backend") -> None:
        self.backend, self.scored = backend, Scored(backend)
        self.name, self.title = f"stock-{backend.name}", f"ask {backend.name} without Trivet"

    def parents(self, recipe: "Recipe") -> tuple[Artifact, ...]:
        return (self.backend.artifact, self.scored)

    def roots(self, recipe: "Recipe") -> tuple[str, ...]:
        parts = verifier.modules(TASKS[recipe.data.task], self.backend)
        return (type(self).__module__, *parts, *self.scored.roots(recipe))

    def build(self, run: "Run", folder: Path, watch: Watch) -> None:
        from trivet.data import dataset

        rows = dataset.read(run.recipe.data, run.data.folder)["test"]
        artifact, scored = run.path(self.backend.artifact), run.path(self.scored)
        card = Card.read(artifact)
        task = TASKS[card.task]
        golden = self._golden(run, card, rows)
        _write(folder / GOLDEN, {}, golden)
        file = write_text(folder / verifier.FILE, verifier.text(task, self.backend))
        figures = folder / "figures.json"
        words = ["--golden", str(folder / GOLDEN), "--json", str(figures)]
        done = verifier.run(file, "--folder", str(artifact), *words, *_base(artifact))
        if done.returncode < 0:
            raise RuntimeError(f"{verifier.FILE} was killed by signal {-done.returncode}")
        if not figures.exists():
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            StockCheck(rows=len(rows), failure=said).write(folder)
            return
        (result,) = json.loads(figures.read_text(encoding="utf-8"))
        figures.unlink()
        _check(result, Score.read(scored)).write(folder)

    def _golden(self, run: "Run", card: Card, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """The raw rows, each with what the table holds of it."""
        task, scored = TASKS[card.task], run.path(self.scored)
        logits = np.load(scored / LOGITS, mmap_mode="r", allow_pickle=False)
        targets = self.scored.targets(run, card, rows, task)
        ends = np.cumsum([len(row) for row in targets])
        replies = json.loads((scored / REPLIES_FILE).read_text(encoding="utf-8"))
        share = tolerance.relative(run.path(self.backend.artifact), card)
        for n, (row, end) in enumerate(zip(rows, ends, strict=True)):
            part = np.asarray(logits[end - len(targets[n]) : end])
            said = task.golden(part, targets[n], card.labels)
            said["tolerance"] = share * float(np.abs(part).max())
            talked = n < min(TALKS, len(replies))
            more = {"reply_tokens": REPLY_TOKENS} if talked else {}
            said |= {"reply": replies[n].strip()} if talked else {}
            yield row | more | {"golden": {self.backend.snippet: said}}


def _check(result: dict[str, Any], score: Score) -> StockCheck:
    """What verify.py counted. The golden rows must themselves give the table's figure."""
    table = {m.name: m.value for m in (score.metric, score.second)}.get(result["metric"])
    failure = ""
    if table is not None and abs(table - result["golden"]) > 1e-6 * max(1.0, abs(table)):
        failure = (
            f"by the rows' own labels the scorer's answers have {result['metric']} "
            f"{result['golden']:.4f}, but it counted {table:.4f}"
        )
    return StockCheck(
        rows=result["rows"],
        same=result["same"],
        ties=result["tie"],
        answers=result["answers"],
        equal=result["equal"],
        max_abs_diff=result["max_abs_diff"],
        tolerances=result["tolerances"],
        metric=result["metric"],
        value=result["value"],
        failure=failure,
    )


def _base(folder: Path) -> list[str]:
    """An adapter's base on this machine; what its own config names may be another's folder."""
    from peft.utils import CONFIG_NAME

    from trivet.tuning.base import model_folder

    if not (folder / CONFIG_NAME).exists():
        return []
    card = Card.read(folder)
    return ["--base", str(model_folder(card.model, TASKS[card.task]))]


def _write(file: Path, files: dict[str, str], rows: "Iterator[dict[str, Any]] | list[Any]") -> None:
    """Golden rows in ASCII, so that a line is a line to everybody."""
    lines = [json.dumps({"files": files}), *(json.dumps(row) for row in rows)]
    write_text(file, "\n".join(lines) + "\n")


def publish(run: "Run", table: "ParityTable") -> None:
    """verify.py and the first golden rows into the run's folders, beside what they prove.

    Where activations are quantised as they come, another machine may be as far off as int8 itself.
    """
    away = {stage.backend: stage.max_abs_diff for stage in table.stages}
    for artifact in run.artifacts():
        target = run.folder / artifact.name
        checks = [stock for b in run.backends() if (stock := stock_of(run, b))]
        checks = [c for c in checks if c.backend.artifact is artifact and run.has(c)]
        if not checks or not target.is_dir() or (target / GOLDEN).exists():
            continue
        rows, *others = (_shipped(run.path(c), c.backend, away.get(c.backend.name)) for c in checks)
        for same in others:  # a folder may hold several models, which answered the same rows
            for row, other in zip(rows, same, strict=True):
                row["golden"] |= other["golden"]
        (target / verifier.FILE).unlink(missing_ok=True)
        files = {f.name: _sha256(f) for f in sorted(target.iterdir()) if f.is_file()}
        shutil.copyfile(run.path(checks[0]) / verifier.FILE, target / verifier.FILE)
        _write(target / GOLDEN, files, rows)


def _shipped(folder: Path, backend: "Backend", away: float | None) -> list[dict[str, Any]]:
    """The first golden rows of one backend."""
    with open(folder / GOLDEN, encoding="utf-8") as lines:
        next(lines)
        rows = [json.loads(line) for line, _ in zip(lines, range(SHIPPED), strict=False)]
    if backend.quantises:
        for row in rows:
            said = row["golden"][backend.snippet]
            said["tolerance"] = max(said["tolerance"], away or 0.0)
    return rows


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Verified(NamedTuple):
    """What a folder's rows were answered with: what was said, its exit code, and notes."""

    said: str
    returncode: int
    notes: list[str]
    results: list[dict[str, Any]]


def check_folder(folder: Path) -> Verified:
    """Ask a received folder's golden rows again, by Trivet's own verify.py: nothing in the folder
    is executed. Raises UserError where it holds no proof, or of what this Trivet does not know.
    """
    if not (folder / GOLDEN).exists() or not (folder / Card.file).exists():
        raise UserError(
            f"FOLDER = '{folder}' has no {GOLDEN} and {Card.file} in it: name the folder of an "
            "artifact, such as runs/<run>/onnx."
        )
    with open(folder / GOLDEN, encoding="utf-8") as lines:
        next(lines)
        names = set(json.loads(next(lines))["golden"])
    card = Card.read(folder)
    able = [b for b in BACKENDS.values() if b.stock and b.snippet in names]
    if not able or not TASKS[card.task].stock:
        raise UserError(f"{folder / GOLDEN} is of '{', '.join(names)}', which is not known here.")
    text = verifier.text(TASKS[card.task], able[0])
    own = folder / verifier.FILE
    notes = []
    if not own.exists() or own.read_text(encoding="utf-8") != text:
        what = "differs from this Trivet's" if own.exists() else "is missing"
        notes.append(f"{own} {what}; this Trivet's own was run.")
    with TemporaryDirectory() as part:
        file = write_text(Path(part) / verifier.FILE, text)
        figures = Path(part) / "figures.json"
        words = ["--folder", str(folder.resolve()), "--json", str(figures)]
        done = verifier.run(file, *words, *_base(folder))
        results = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else []
    errors = done.stderr if done.returncode not in (0, 1) else ""  # else libraries' warnings
    return Verified(done.stdout + errors, done.returncode, notes, results)
