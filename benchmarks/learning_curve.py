"""The learning curve of the tuned model and of TF-IDF + logistic regression, over labelled rows.

Run: .venv/bin/python benchmarks/learning_curve.py   (about half an hour on 2 CPU cores)
Writes docs/learning-curve.json and docs/learning-curve.png; a run that is stopped goes on where it
was. Each seed draws its own labelled rows, order and adapter; the 600 test rows are the same.
"""

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import torch

from trivet.artifacts.run import Run
from trivet.backends.adapter import ADAPTED
from trivet.config.recipe import load
from trivet.data import dataset, versions
from trivet.evaluate.score import Scored
from trivet.plugins import TASKS
from trivet.records.score import Baseline, Score
from trivet.tuning.adapter import ADAPTER

TUNED = (31, 62, 150)  # labelled rows; 31 = one for each intent
PLAIN = (300, 600, 1200, 2400, 4544)  # where only the baseline is fitted, up to all there are
SEEDS, THREADS = (0, 1, 2), 2
DOCS = Path(__file__).resolve().parents[1] / "docs"


def measure(rows: int, seed: int) -> dict[str, Any]:
    """Accuracy and macro-F1 of both on the default recipe with `rows` labelled rows.

    Where `rows` is not in TUNED, of the baseline alone.
    """
    words = [f"data.rows={rows}", f"data.seed={seed}", f"tune.seed={seed}", "fpga.enabled=false"]
    recipe = load("home.toml", words)
    version = versions.version(recipe.data, DOCS.parent)
    splits = dataset.read(recipe.data, version.folder)
    plain = TASKS[recipe.data.task].baseline(splits)
    assert plain
    point = {"rows": len(splits["train"]), "seed": seed, "baseline": _figures(plain)}
    if rows not in TUNED:
        return point
    with tempfile.TemporaryDirectory() as root:
        run = Run.begin(Path(root), recipe, version)
        run.build(ADAPTER)
        return point | {"tuned": _figures(Score.read(run.build(Scored(ADAPTED))))}


def _figures(result: Baseline | Score) -> dict[str, float]:
    value = result.value if isinstance(result, Baseline) else result.metric.value
    return {"accuracy": value, "macro_f1": result.second.value}


def draw(points: list[dict[str, Any]]) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for panel, metric in zip(panels, ("accuracy", "macro_f1"), strict=True):
        for who, name, colour in (
            ("tuned", "tuned SmolLM2-135M", "#1f6f5c"),
            ("baseline", "TF-IDF + logistic regression", "#b5651d"),
        ):
            sizes = sorted({p["rows"] for p in points if who in p})
            values = [
                [p[who][metric] for p in points if p["rows"] == n and who in p] for n in sizes
            ]
            panel.plot(sizes, [sum(v) / len(v) for v in values], "-o", color=colour, label=name)
            panel.fill_between(
                sizes, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15
            )
        panel.set(
            xscale="log",
            xlabel="labelled rows",
            title=metric.replace("_", "-"),
            xticks=sizes,
            xticklabels=sizes,
        )
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(DOCS / "learning-curve.png", dpi=120)


def main() -> None:
    torch.set_num_threads(THREADS)
    file = DOCS / "learning-curve.json"
    record = json.loads(file.read_text()) if file.exists() else {"points": []}
    have = {(p["rows"], p["seed"]) for p in record["points"]}
    for rows in (*PLAIN, *TUNED):
        for seed in SEEDS:
            if (rows, seed) not in have:
                record["points"].append(measure(rows, seed))
                record |= {"threads": THREADS, "machine": platform.machine(), "test_rows": 600}
                file.write_text(json.dumps(record, indent=1) + "\n")
                print(record["points"][-1], flush=True)
    draw(record["points"])


if __name__ == "__main__":
    main()
