"""The learning curve of tuned models and of the two strongest baselines, over labelled rows.

Run: .venv/bin/python benchmarks/learning_curve.py   (about an hour on 2 CPU cores)
Writes docs/learning-curve.json and docs/learning-curve.png; a run that is stopped goes on where it
was. Each seed draws its own labelled rows, order and adapter; the 600 test rows are the same.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import torch

from trivet.artifacts.artifact import Watch
from trivet.artifacts.run import Run
from trivet.backends.adapter import ADAPTED
from trivet.config.recipe import load
from trivet.data import dataset, versions
from trivet.evaluate.baselines.embeddings import EMBEDDINGS
from trivet.evaluate.baselines.tfidf import TFIDF
from trivet.evaluate.score import Scored
from trivet.records.score import Score
from trivet.tuning.adapter import ADAPTER

SIZES = (31, 62, 150, 300, 600, 1200, 2400, 4544)  # 31 = one for each intent; up to all there are
TUNED: dict[str, tuple[list[str], tuple[int, ...]]] = {  # recipe, and labelled rows
    "tuned": (["home-smollm2.toml"], SIZES[:3]),
    "encoder": (["home.toml"], SIZES[:6]),
    "encoder_full": (["home.toml", "tune.method=full", "tune.learning_rate=2e-4"], SIZES[:3]),
}
BASELINES = {"baseline": TFIDF, "embeddings": EMBEDDINGS}
SEEDS, THREADS = (0, 1, 2), 2
LINES = (
    ("encoder", "tuned MiniLM (home.toml)", "#8c2f5b"),
    ("tuned", "tuned SmolLM2-135M", "#1f6f5c"),
    ("embeddings", EMBEDDINGS.words, "#3b5b92"),
    ("baseline", TFIDF.words, "#b5651d"),
)
DOCS = Path(__file__).resolve().parents[1] / "docs"


def measure(point: dict[str, Any]) -> None:
    """Fill in what the point lacks: accuracy and macro-F1 with its rows, and what tuning took."""
    rows, seed = point["rows"], point["seed"]
    words = [f"data.rows={rows}", f"data.seed={seed}", f"tune.seed={seed}", "fpga.enabled=false"]
    missing = {
        w: recipe for w, (recipe, sizes) in TUNED.items() if w not in point and rows in sizes
    }
    with tempfile.TemporaryDirectory() as root:
        recipe = load("home.toml", words)
        version = versions.version(recipe.data, DOCS.parent)
        run = Run.begin(Path(root), recipe, version)
        splits = dataset.read(recipe.data, version.folder)
        for who, baseline in BASELINES.items():
            if who not in point:
                tally, second = baseline.score(run, splits, Watch())
                point[who] = {"accuracy": tally.value, "macro_f1": second.value}
        for who, (name, *overrides) in missing.items():
            run = Run.begin(Path(root), load(name, [*words, *overrides]), version)
            start = time.process_time()
            run.build(ADAPTER)
            seconds = round(time.process_time() - start)
            score = Score.read(run.build(Scored(ADAPTED)))
            point[who] = {"accuracy": score.metric.value, "macro_f1": score.second.value}
            point[who]["cpu_seconds"] = seconds


def draw(points: list[dict[str, Any]]) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for panel, metric in zip(panels, ("accuracy", "macro_f1"), strict=True):
        for who, name, colour in LINES:
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
            xticks=SIZES,
            xticklabels=SIZES,
        )
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(DOCS / "learning-curve.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    file = DOCS / "learning-curve.json"
    record = json.loads(file.read_text()) if file.exists() else {"points": []}
    points = {(point["rows"], point["seed"]): point for point in record["points"]}
    for rows in SIZES:
        for seed in options.seeds:
            point = points.setdefault((rows, seed), {"rows": rows, "seed": seed})
            before = len(point)
            measure(point)
            if len(point) > before:
                ordered = [points[key] for key in sorted(points)]
                record |= {"points": ordered, "threads": THREADS, "test_rows": 600}
                record |= {"machine": platform.machine()}
                file.write_text(json.dumps(record, indent=1) + "\n")
                print(point, flush=True)
    draw(record["points"])


if __name__ == "__main__":
    main()
