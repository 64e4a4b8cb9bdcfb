"""The learning curve of the tuned model and of TF-IDF + logistic regression, over labelled rows.

Run: .venv/bin/python benchmarks/learning_curve.py   (about half an hour on 2 CPU cores)
Writes docs/learning-curve.json and docs/learning-curve.png; a run that is stopped goes on where it
was. Each seed draws its own labelled rows, order and adapter; the 600 test rows are the same.
"""

import json
import platform
import tempfile
from pathlib import Path

import matplotlib
import torch
from trivet.flows.recipe import load
from trivet.flows.steps import artifacts, data, score
from trivet.flows.steps import model as base
from trivet.flows.steps.backends import Card, open_backend
from trivet.flows.steps.run import Run

TUNED = (31, 62, 150)  # labelled rows; 31 = one for each intent
PLAIN = (300, 600, 1200, 2400, 4544)  # where only the baseline is fitted, up to all there are
SEEDS, THREADS = (0, 1, 2), 2
DOCS = Path(__file__).resolve().parents[1] / "docs"


def measure(rows: int, seed: int) -> dict:
    """Accuracy and macro-F1 of both on the default recipe with `rows` labelled rows.

    Where `rows` is not in TUNED, of the baseline alone.
    """
    recipe = load("home.toml", [f"data.rows={rows}", f"data.seed={seed}", f"tune.seed={seed}"])
    version = data.version(recipe, DOCS.parent)
    read = data.read(recipe, version.folder)
    plain = score.baseline(read)
    found = {
        "rows": len(read["train"]),
        "seed": seed,
        "baseline": {"accuracy": plain["value"], "macro_f1": plain["macro_f1"]},
    }
    if rows not in TUNED:
        return found
    with tempfile.TemporaryDirectory() as root:
        adapter = artifacts.adapter(Run(Path(root), recipe, version))
        answers = score.ask(open_backend("adapter", adapter), read["test"], "classify")
        labels = Card.read(adapter).labels
        targets = score.targets_of(read["test"], recipe.data, labels, base.load_tokenizer(adapter))
    tuned = score.score(answers, targets, read["test"], "classify", labels)
    return found | {"tuned": {"accuracy": tuned["value"], "macro_f1": tuned["second"]["value"]}}


def draw(points: list[dict]) -> None:
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
    found = json.loads(file.read_text()) if file.exists() else {"points": []}
    have = {(p["rows"], p["seed"]) for p in found["points"]}
    for rows in (*PLAIN, *TUNED):
        for seed in SEEDS:
            if (rows, seed) not in have:
                found["points"].append(measure(rows, seed))
                found |= {"threads": THREADS, "machine": platform.machine(), "test_rows": 600}
                file.write_text(json.dumps(found, indent=1) + "\n")
                print(found["points"][-1], flush=True)
    draw(found["points"])


if __name__ == "__main__":
    main()
