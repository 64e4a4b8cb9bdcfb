"""The Python of a page runs as copied, on real artifacts, and all of it says the same.

Run: .venv/bin/pytest tests/e2e/test_snippets.py
"""

import html
import re
from pathlib import Path

import pytest
import torch
from report_run import (
    EXAMPLE,
    METRIC,
    make_run,
    page_of,
)

from trivet.config.recipe import of_run
from trivet.plugins import TASKS
from trivet.records.card import Base, Card
from trivet.records.parity import ParityTable

pytestmark = pytest.mark.long  # make sweep


@pytest.mark.parametrize("task", list(METRIC))
def test_the_snippets_run_and_agree(
    tmp_path: Path,
    small_base: Path,
    task: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each Python snippet of the page, as copied, on real artifacts of two real layers."""
    run = make_run(tmp_path, task)
    (tmp_path / "runs").mkdir()
    run = run.rename(tmp_path / "runs" / run.name)
    labels = {"classify": ["off", "on"], "tag": ["B-room", "B-way", "O"], "generate": []}[task]
    artifacts_of(run, small_base, task, labels)
    table = ParityTable.read(run)
    same = [stage for stage in table.stages if stage.backend != "onnx-int8"]
    table.model_copy(update={"stages": same}).write(run)  # without int8 all answers are equal

    snippets = re.findall(r'<code class="python">(.*?)</code>', page_of(run), re.S)
    monkeypatch.chdir(tmp_path)
    answers = []
    capsys.readouterr()
    for snippet in snippets:
        exec(compile(html.unescape(snippet), "snippet", "exec"), {})
        answers.append(capsys.readouterr().out)
    assert len(answers) == 3
    assert len(set(answers)) == 1
    if task == "classify":
        assert answers[0].strip() in labels
    elif task == "tag":
        assert answers[0].count("(") == 1 + EXAMPLE.count(" ")


def artifacts_of(run: Path, base_folder: Path, task: str, labels: list[str]) -> None:
    """adapter/, merged/ and onnx/ of a run, from an adapter with weights that were drawn."""
    from trivet.export.onnx import write_fp32
    from trivet.tasks.tokenizer import load_tokenizer
    from trivet.tuning import base

    recipe = of_run(run)
    assert recipe.tune
    model = base.load(base_folder, TASKS[task], labels)
    adapted = recipe.tune.adapt(model, TASKS[task])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:  # zero until trained
                weight.normal_(std=0.02)
    adapted.peft_config["default"].base_model_name_or_path = str(base_folder)
    adapted.save_pretrained(str(run / "adapter"))
    if not TASKS[task].new_head:
        model.generation_config.save_pretrained(run / "adapter")
    card = Card(
        task=task,
        prompt=recipe.data.prompt,
        max_length=recipe.data.max_length,
        labels=labels,
        model=Base(base=str(base_folder)),
    )
    merged = recipe.tune.merge(run / "adapter", base.load_adapted(run / "adapter", card))
    merged.save_pretrained(run / "merged")
    for name in ("adapter", "merged"):
        load_tokenizer(base_folder).save_pretrained(run / name)
        card.write(run / name)
    (run / "onnx").mkdir()
    write_fp32(run / "merged", run / "onnx")
