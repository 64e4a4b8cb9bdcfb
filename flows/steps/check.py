"""What can be known before training is checked before training.

The machine (compiler, disk), the rows (classes, lengths, what is cut), the adapter's targets on the
real architecture, and three rendered rows with the tokens that carry loss, for a person to look at.

Not covered: predicting the memory that tuning will need.
"""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ... import UserError
from ..recipe import Recipe
from . import data as rows_of
from . import model as base
from .render import Example, render

COPIES = 6  # of the base's bytes: merged, ONNX fp32, a half for int8, the tracked copies, slack


@dataclass(frozen=True)
class Check:
    """`preview`: three rows as (token, carries loss) pairs."""

    rows: dict[str, int]
    labels: list[str]
    tokens: dict[str, float]
    truncated: int
    coverage: base.Coverage
    preview: list[list[tuple[str, bool]]]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "coverage": vars(self.coverage)}


def machine(recipe: Recipe, root: Path) -> None:
    """Raise UserError where a tool or the disk space for the run is missing."""
    if recipe.fpga.enabled and not shutil.which("g++"):
        raise UserError(
            "fpga.enabled = true, but g++ is not on the PATH: it compiles the C simulation. "
            "Install g++ (Debian, Ubuntu: apt-get install g++), or set fpga.enabled = false."
        )
    folder = base.base_folder(recipe.model)
    need = COPIES * sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    free = shutil.disk_usage(root).free
    if free < need:
        raise UserError(
            f"No disk space: {root} has {free / 1e9:.1f} GB free, and a run with model.base = "
            f"'{recipe.model.base}' writes about {need / 1e9:.1f} GB (merged, ONNX, tracked "
            "copies). Free some, or remove old folders in runs/ and .trivet/store/."
        )


def check(recipe: Recipe, rows: dict[str, list[dict[str, Any]]]) -> Check:
    """Check the rows and the adapter of a recipe; writes nothing, loads no weights.

    Raises UserError naming the key to mend.
    """
    task = recipe.data.task
    labels = rows_of.labels(rows["train"], task)
    folder = base.base_folder(recipe.model)
    remote = recipe.model.trust_remote_code
    tokenizer = base.load_tokenizer(folder, remote)
    meta = base.load(folder, task, labels, device="meta", trust_remote_code=remote)
    covered = base.coverage(meta, recipe.tune, task)
    rendered = {k: render(v, recipe.data, labels, tokenizer) for k, v in rows.items() if v}
    examples = rendered["train"].examples
    if not any(t >= 0 for e in examples for t in e.targets):
        raise UserError("data.source: no training row carries loss: every reply or label is empty.")
    lengths = [len(e.ids) for r in rendered.values() for e in r.examples]
    return Check(
        rows={k: len(v) for k, v in rows.items()},
        labels=labels,
        tokens={"median": statistics.median(lengths), "max": max(lengths)},
        truncated=sum(r.truncated for r in rendered.values()),
        coverage=covered,
        preview=[_marked(e, tokenizer, task) for e in examples[:3]],
    )


def _marked(
    example: Example, tokenizer: PreTrainedTokenizerBase, task: str
) -> list[tuple[str, bool]]:
    """Tokens as text; marked where loss is taken: the answered position, or the reply's tokens."""
    shift = 1 if task == "generate" else 0
    carries = {p + shift for p in example.positions}
    return [(str(tokenizer.decode([token])), i in carries) for i, token in enumerate(example.ids)]
