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

import numpy as np
from transformers import PreTrainedTokenizerBase

from ... import UserError
from ..recipe import Recipe
from . import data as rows_of
from . import fpga
from . import model as base
from .render import Example, render

COPIES = 6  # of the base's bytes: merged, ONNX fp32, a half for int8, the tracked copies, slack


@dataclass(frozen=True)
class Check:
    """`preview`: three rows as (token, carries loss) pairs.

    Without a language model there are no tokens, no coverage and no preview. `student`: what goes
    on the chip, in words; empty where nothing does.
    """

    rows: dict[str, int]
    labels: list[str]
    tokens: dict[str, float]
    truncated: int
    coverage: base.Coverage | None
    preview: list[list[tuple[str, bool]]]
    student: str

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "coverage": self.coverage and vars(self.coverage)}


def machine(recipe: Recipe, root: Path) -> None:
    """Raise UserError where a tool or the disk space for the run is missing."""
    if recipe.fpga.enabled and not shutil.which("g++"):
        raise UserError(
            "fpga.enabled = true, but g++ is not on the PATH: it compiles the C simulation. "
            "Install g++ (Debian, Ubuntu: apt-get install g++), or set fpga.enabled = false."
        )
    if not recipe.tune:
        return
    folder = base.base_folder(recipe.model)
    need = COPIES * sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    free = shutil.disk_usage(root).free
    if free < need:
        raise UserError(
            f"No disk space: {root} has {free / 1e9:.1f} GB free, and a run with model.base = "
            f"'{recipe.model.base}' writes about {need / 1e9:.1f} GB (merged, ONNX, tracked "
            "copies). Free some, or remove old folders in runs/ and .trivet/store/."
        )


def check(recipe: Recipe, rows: dict[str, list[dict[str, Any]]], root: Path) -> Check:
    """Check the rows, the adapter and the chip's network of a recipe; writes nothing, loads no
    weights of a language model.

    Raises UserError naming the key to mend.
    """
    task = recipe.data.task
    counts = {k: len(v) for k, v in rows.items()}
    labels = rows_of.labels(rows["train"], task)
    if recipe.tune and "x" in rows["train"][0]:
        raise UserError(
            f"data.source = '{recipe.data.source}' holds numbers, and a language model reads text: "
            "take [tune] out of the recipe to train the chip's student on them."
        )
    chip = _student(recipe, rows["train"], root) if recipe.fpga.enabled else ""
    if not recipe.tune:
        return Check(counts, labels, {}, 0, None, [], chip)
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
        rows=counts,
        labels=labels,
        tokens={"median": statistics.median(lengths), "max": max(lengths)},
        truncated=sum(r.truncated for r in rendered.values()),
        coverage=covered,
        preview=[_marked(e, tokenizer, task) for e in examples[:3]],
        student=chip,
    )


def _student(recipe: Recipe, rows: list[dict[str, Any]], root: Path) -> str:
    """The chip's network in words; UserError where it could not be built."""
    network, inputs = fpga.prepare(recipe, rows, root)
    found = len(rows_of.labels(rows))
    if network and network.shapes[-1] != (found,):
        raise UserError(
            f"fpga.module = '{recipe.fpga.module}' gives {network.shapes[-1][0]} logits, and the "
            f"training rows have {found} labels: make its last layer give {found}."
        )
    sizes = [*recipe.fpga.hidden, found]
    shapes = network.shapes if network else [np.shape(inputs.read(rows[:1])[0]), *zip(sizes)]
    chain = " → ".join("×".join(map(str, shape)) for shape in shapes)
    return f"{inputs.kind} ({inputs.given}): {chain}"


def _marked(
    example: Example, tokenizer: PreTrainedTokenizerBase, task: str
) -> list[tuple[str, bool]]:
    """Tokens as text; marked where loss is taken: the answered position, or the reply's tokens."""
    shift = 1 if task == "generate" else 0
    carries = {p + shift for p in example.positions}
    return [(str(tokenizer.decode([token])), i in carries) for i, token in enumerate(example.ids)]
