"""docs/models.md: which of transformers' architectures come through the chain, and why not.

Small random models (tests/architectures.py) and a tokenizer of 300 tokens go through the contract
(trivet.contract.trial), the one that `trivet check` holds every base to: tune, merge, ONNX, int8.
A line that is there already is measured again only where its architecture is named.

Run: python tests/models.py [ARCHITECTURE ...]
"""

import re
import sys
import tempfile
from pathlib import Path

import torch
from architectures import ARCHITECTURES, VOCABULARY, Architecture
from small_run import ROWS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trivet import UserError
from trivet.config.recipe import validate
from trivet.contract import trial
from trivet.plugins import BACKENDS, TASKS
from trivet.records.card import Base, Card

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
STAGES = ("adapter", "merged", "onnx-fp32", "onnx-int8")
HEAD = """\
# Which bases work

Each architecture of transformers below went through the contract that `trivet check` holds a base
to, as a small random model: tune, merge, ONNX, int8; each row alone and in a padded batch, each
stage beside the one before it. **works**: equal within the rounding of its arithmetic. **refused**:
`trivet check` ends there with the reason, before anything is tuned. Written by `tests/models.py`.

{counts}

| architecture | task | {stages} | why not |
|---|---|{lines}|---|
"""


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges, `<pad>`, `<s>`, `</s>` as the architectures' configs have them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([str(rows) for rows in ROWS.values()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = TEMPLATE
    return fast


def small_base(architecture: Architecture, head: str, folder: Path) -> Path:
    architecture.model(head).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def outcome(architecture: Architecture, task_name: str, **tune: object) -> tuple[str, str]:
    """The first stage that is refused, and why; ("", "") where all work."""
    task, rows = TASKS[task_name], ROWS[task_name]
    labels = task.labels(rows)
    tree = {
        "name": "models",
        "data": {"source": "few", "task": task_name, "max_length": 96},
        "tune": {"rank": 4, **tune},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / architecture.name
        try:
            small_base(architecture, task.head, folder)
        except Exception as error:
            return STAGES[0], f"does not build small: {error}"
        recipe = validate(tree | {"model": {"base": str(folder)}}, None, "this table")
        card = Card(
            task=task_name,
            prompt=recipe.data.prompt,
            max_length=recipe.data.max_length,
            labels=labels,
            model=Base(base=str(folder)),
        )
        try:
            contract = trial.run(recipe, folder, card, rows)
        except trial.Broken as error:
            return error.stage, str(error).replace(str(folder), architecture.name)
        except UserError as error:
            return STAGES[0], str(error).replace(str(folder), architecture.name)
    return (STAGES[0], contract.skipped) if contract.skipped else ("", "")


def has_head(architecture: Architecture, task: str) -> bool:
    heads = {"classify": architecture.classifies, "tag": architecture.tags}
    return heads.get(task, architecture.generates)


def stages_of(refused: str) -> list[str]:
    """A cell for each stage, of a base that is refused at one; "" = at none."""
    reached = STAGES.index(refused) if refused else len(STAGES)
    cells = ["works"] * reached + ["refused"] * bool(refused)
    return cells + ["–"] * (len(STAGES) - len(cells))


def line(architecture: Architecture, task: str) -> str:
    stage, why = outcome(architecture, task)
    why = " ".join(re.sub(r"/tmp/\S+", "", why).replace("|", "/").split())
    return f"| {architecture.name} | {task} | {' | '.join(stages_of(stage))} | {why:.240} |"


def page(lines: dict[tuple[str, str], str]) -> str:
    works = sum("refused" not in text for text in lines.values())
    names = {name for name, _ in lines}
    counts = (
        f"{len(names)} architectures, {len(lines)} with their tasks: {works} work in every stage, "
        f"{len(lines) - works} are refused."
    )
    columns = " | ".join(BACKENDS[stage].name for stage in STAGES)
    head = HEAD.format(counts=counts, stages=columns, lines="|".join(["---"] * len(STAGES)))
    return head + "\n".join(lines[key] for key in sorted(lines)) + "\n"


def read() -> dict[tuple[str, str], str]:
    text = PAGE.read_text() if PAGE.exists() else ""
    lines = re.finditer(r"^\| ([\w.-]+) \| (\w+) \| (?:works|refused).*$", text, re.M)
    return {(match[1], match[2]): match[0] for match in lines}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    lines = read()
    for name, architecture in ARCHITECTURES.items():
        for task in TASKS:
            if not has_head(architecture, task) or ((name, task) in lines and name not in names):
                continue
            if not names or name in names:
                lines[name, task] = line(architecture, task)
                print(lines[name, task], flush=True)
                PAGE.write_text(page(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
