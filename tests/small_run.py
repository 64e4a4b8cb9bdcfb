"""A run of a few rows, whose artifacts the tests build themselves, without a flow."""

from pathlib import Path
from typing import Any

from trivet.artifacts.artifact import Artifact
from trivet.artifacts.run import Run
from trivet.config.recipe import validate
from trivet.data import jsonl
from trivet.data.dataset import SPLITS
from trivet.records.dataset import DataCard, DatasetVersion
from trivet.records.parity import ParityTable
from trivet.records.record import write_text

ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [
        {"text": f"turn {way} the {room} light", "label": way}
        for way in ("on", "off")
        for room in ("hall", "attic", "kitchen")
    ],
    "tag": [
        {
            "tokens": ["light", room, way],
            "tags": ["O", "B-room", "B-way"],
            "text": f"light {room} {way}",
        }
        for way in ("on", "off")
        for room in ("hall", "attic")
    ],
    "generate": [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in [
            ("What is your name?", "I am Trivet."),
            ("Are you a robot?", "I am a stool with three legs."),
            ("Bye", "See you."),
        ]
    ],
    "numbers": [{"x": [i - 3.5, 0.25 * i], "label": "high" if i > 3 else "low"} for i in range(8)],
}


def small_run(root: Path, base: Path, rows: str, **sections: dict[str, Any]) -> Run:
    """A run on `ROWS[rows]`, all splits alike; `sections`: of the recipe, beside data and model."""
    folder = root / "data" / "few"
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        jsonl.write(folder / f"{split}.jsonl", ROWS[rows])
    card = DataCard(
        source="few",
        kind="",
        task=rows,
        seed=0,
        duplicates_removed=0,
        duplicates_with_another_label=0,
        rows=dict.fromkeys(SPLITS, len(ROWS[rows])),
        labels={},
        licence="",
        origin={},
        templates={},
    )
    data = DatasetVersion(folder, "0" * 32 + ".dir", "1" * 32 + ".dir", card, "built")
    task = "classify" if rows == "numbers" else rows
    tree = {
        "name": f"few-{rows}",
        "data": {"source": "few", "task": task},
        "model": {"base": str(base)},
        "tune": {"epochs": 1, "batch": 2, "rank": 4, "precision": "fp32", "kernels": "peft"},
    }
    recipe = validate({k: v for k, v in (tree | sections).items() if v}, None, "this test")
    return Run.begin(root, recipe, data)


def build(run: Run, *artifacts: Artifact) -> Run:
    """The run's folder with these artifacts and all that they are made from, and its recipe."""

    def make(artifact: Artifact) -> None:
        for parent in artifact.parents(run.recipe):
            make(parent)
        run.build(artifact)

    for artifact in artifacts:
        make(artifact)
    run.publish()
    write_text(run.folder / "recipe.json", run.recipe.model_dump_json(indent=1) + "\n")
    return run


def table(run: Run) -> ParityTable:
    """Promoted without a stage: what a registry does is tested, not what a run is worth."""
    return ParityTable(
        run=run.name,
        promoted=True,
        task=run.recipe.data.task,
        metric="accuracy",
        lower_is_better=False,
        threads=1,
        machine="",
        stages=[],
        refused=[],
    )
