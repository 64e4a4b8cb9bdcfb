"""A task is one file: this one. Rows -> tune -> score -> report, without a word in the product.

Each row is a sentence and a grade from 0 to 4; what counts is how far the answer is off.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trivet.plugins import TASKS
from trivet.records.answer import Answer
from trivet.records.score import Metric
from trivet.tasks import snippets
from trivet.tasks.example import Answers, Example, Row
from trivet.tasks.tally import Tally
from trivet.tasks.task import Shape, Task


class Graded(Answer):
    grade: int

    def lines(self) -> list[tuple[str, ...]]:
        return [(f"grade {self.grade}",)]


def _row(cells: Any) -> Row:
    return {"text": cells.text("sentence"), "grade": cells.text("grade")}


class ToyGrade(Task):
    name = "toy-grade"
    shapes = (Shape(("sentence", "grade"), "sentence and grade", _row),)
    prompt = "Grade: {text} ="
    head = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    metric = "mean_error"
    lower_is_better = True

    def labels(self, rows: Iterable[Row]) -> list[str]:
        return sorted({row["grade"] for row in rows})

    def example(self, row: Row, data: Any, index: Any, tokenizer: Any) -> tuple[Example, bool]:
        ids = tokenizer(data.prompt.replace("{text}", row["text"]))["input_ids"][-data.max_length :]
        return Example(ids, [len(ids) - 1], [index.get(row.get("grade", ""), -1)]), False

    def metrics(
        self, answers: Answers, targets: list[list[int]], rows: Sequence[Row], labels: list[str]
    ) -> tuple[Tally, Metric]:
        off = np.abs(answers.logits.argmax(1) - np.concatenate(targets)).astype(float)
        return Tally(off, np.ones_like(off)), Tally.right(off == 0).metric("exact")

    def question(self, text: str) -> Row:
        return {"text": text}

    def answer(self, logits: np.ndarray, row: Row, labels: list[str]) -> Answer:
        return Graded(grade=int(labels[logits[0].argmax()]))

    def trial(self, run: str, text: str, backend: str) -> str:
        return snippets.predict(run, text, backend)

    def snippet(self, runtime: str, folder: str, prompt: str, text: str) -> str:
        encode = f'ids = tokenizer({prompt!r}.replace("{{text}}", {text!r}))["input_ids"]'
        return snippets.python(self, runtime, folder, encode, "print(labels[logits[0].argmax()])")


if "pytest" not in sys.modules:  # in the product's process, not in the one that collects tests
    TASKS.add(ToyGrade())


def test_a_task_from_rows_to_report(trivet: Any, clone: Path, small_base: Path) -> None:
    file = clone / "graded.csv"
    words = ["awful", "poor", "fair", "good", "great"]
    things = [
        f"{a} {n}" for a in ("red", "old", "big", "dry") for n in ("bus", "pie", "hat", "inn")
    ]
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["sentence", "grade"])
        table.writerows([f"the {t} is {w}", g] for t in things for g, w in enumerate(words))
    recipe = clone / "grades.toml"
    recipe.write_text(
        f'[data]\nsource = "graded.csv"\ntask = "toy-grade"\n'
        f'[model]\nbase = "{small_base}"\n'
        "[tune]\nepochs = 6\nlearning_rate = 2e-3\n"
        "[gates]\nonnx_int8_points = 50.0\n"
    )
    done = trivet("run", "grades.toml", "--json", plugin="test_toy_task")
    parity = json.loads(done.stdout.splitlines()[-1])
    assert parity["metric"] == "mean_error" and parity["lower_is_better"]
    assert [s["backend"] for s in parity["stages"]] == [
        "adapter",
        "merged",
        "onnx-fp32",
        "onnx-int8",
    ]
    assert parity["stages"][0]["value"] < 0.5  # always answering 2 is 1.2 off

    text = "the red bus is great"
    answer = trivet("predict", parity["run"], text, "--json", plugin="test_toy_task")
    assert set(json.loads(answer.stdout)) == {"run", "backend", "text", "grade"}
    page = (clone / "runs" / parity["run"] / "report.html").read_text()
    assert "mean error" in page and "trivet predict" in page
    refused = trivet("run", "grades.toml", "gates.min_value=-1", rc=3, plugin="test_toy_task")
    assert "mean_error at most -1" in refused.stdout
    unknown = trivet("check", "grades.toml", rc=2)
    assert "data.task = 'toy-grade': there is no such task; known:" in unknown.stderr
