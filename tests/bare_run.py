"""A run of rows that a test brings, without DVC and Prefect: artifacts are built from it."""

from pathlib import Path
from typing import Any

from trivet.artifacts.run import Run
from trivet.config.recipe import Recipe
from trivet.data import dataset, jsonl
from trivet.records.dataset import DataCard, DatasetVersion
from trivet.tasks.example import Row

Rows = dict[str, list[Row]]


def bare_run(root: Path, tree: dict[str, Any], rows: Rows) -> Run:
    """A run in the workspace `root` of a recipe's tree and rows, which are written to root/rows."""
    recipe = Recipe.model_validate({"name": "t"} | tree)
    folder = root / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    for split in dataset.SPLITS:
        jsonl.write(folder / f"{split}.jsonl", rows[split])
    card = DataCard(
        source="t",
        kind="rows of a test",
        task=recipe.data.task,
        seed=0,
        duplicates_removed=0,
        duplicates_with_another_label=0,
        rows={split: len(part) for split, part in rows.items()},
        labels={},
        licence="",
        origin={},
    )
    return Run.begin(root, recipe, DatasetVersion(folder, "a.dir", "b.dir", card, "built"))
