"""The loop: it learns, it is the same again, and a kill at any moment does not change its losses.

Run: pytest tests/e2e/test_loop.py
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from trivet.artifacts.artifact import Watch
from trivet.backends.adapter import ADAPTED
from trivet.config.data import Data
from trivet.plugins import TASKS
from trivet.records.card import Base, Card
from trivet.records.score import Point
from trivet.tasks.example import Example
from trivet.tasks.tokenizer import load_tokenizer
from trivet.tuning import base as bases
from trivet.tuning import head, loop
from trivet.tuning.methods.lora import Lora

DATA = Data(source="none", prompt="Command: {text}. Intent:")
LABELS = ["cold", "off", "on"]
ROOMS = ["kitchen", "garage", "hall", "attic", "cellar", "office"]
ROWS = [
    {"text": words.format(room), "label": label}
    for room in ROOMS
    for words, label in (
        ("turn on the {} light", "on"),
        ("lamp off in the {}", "off"),
        ("is the {} cold", "cold"),
    )
]
CLASSIFY = TASKS["classify"]
TUNE = Lora(
    rank=8, epochs=8, batch=4, learning_rate=3e-3, patience=8, dropout=0.1, precision="fp32"
)


def examples(base: Path) -> list[Example]:
    return CLASSIFY.tokenize(ROWS, DATA, LABELS, load_tokenizer(base)).examples


def fit(base: Path, folder: Path, watch: Watch | None = None) -> list[Point]:
    torch.set_num_threads(1)
    whole = bases.load(base, CLASSIFY, LABELS)
    head.init_head_from_labels(whole, load_tokenizer(base), LABELS)
    rows, adapted = examples(base), TUNE.adapt(whole, CLASSIFY)
    return loop.fit(adapted, rows[:12], rows[12:], TUNE, False, folder, watch or Watch())


@pytest.fixture(scope="module")
def tuned(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Point]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, fit(small_base, folder)


def test_the_loss_falls_and_each_epoch_is_validated(tuned) -> None:
    _, curve = tuned
    assert [p.step for p in curve] == list(range(1, 25))
    assert [p.step for p in curve if p.valid_loss is not None] == list(range(3, 25, 3))
    first, last = (
        np.mean([p.train_loss for p in curve[at]]) for at in (slice(0, 3), slice(-3, None))
    )
    assert last < first / 2


def test_killed_and_resumed_gives_the_same_losses(small_base: Path, tuned, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second epoch, with dropout; the same command goes on."""
    script = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "import test_loop; from trivet.artifacts.artifact import Watch\n"
        "from trivet.tuning import loop\n"
        "loop.CHECKPOINT_SECONDS = 0\n"
        "def on_point(point):\n"
        "    if point.step == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "test_loop.fit(Path(sys.argv[1]), Path(sys.argv[2]), Watch(on_point=on_point))\n"
    )
    command = [
        sys.executable,
        "-c",
        script,
        str(small_base),
        str(tmp_path),
        str(Path(__file__).parent),
    ]
    killed = subprocess.run(
        command, env=os.environ | {"PYTHONSAFEPATH": ""}, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "checkpoint.pt").exists()
    seen: list[int] = []
    curve = fit(small_base, tmp_path, Watch(on_point=lambda point: seen.append(point.step)))
    assert seen[0] == 5  # step 5 was lost with the process, steps 1 to 4 were not
    assert curve == tuned[1]
    saved = [
        Path(f, "best", "adapter_model.safetensors").read_bytes() for f in (tuned[0], tmp_path)
    ]
    assert saved[0] == saved[1]


def test_stock_peft_loads_the_adapter_with_the_same_logits(small_base: Path, tuned) -> None:
    adapter = tuned[0] / "best"
    card = Card(
        task="classify",
        prompt=DATA.prompt,
        max_length=DATA.max_length,
        labels=LABELS,
        model=Base(base=str(small_base)),
    )
    card.write(adapter)
    load_tokenizer(small_base).save_pretrained(adapter)
    ours = ADAPTED.open(adapter).answer(ROWS[:5])
    stock = AutoModelForSequenceClassification.from_pretrained(
        small_base, num_labels=3, pad_token_id=2
    )
    stock = PeftModel.from_pretrained(stock, adapter).eval()
    tokenizer = load_tokenizer(adapter)
    batch = tokenizer(
        [DATA.prompt.format(text=r["text"]) for r in ROWS[:5]], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        theirs = stock(**batch).logits.numpy()
    assert np.array_equal(np.concatenate(ours), theirs)


def test_batches_hold_every_row_once_in_like_lengths() -> None:
    rows = [Example([1] * n, [n - 1], [0]) for n in range(1, 100)]
    batches = loop.batches(rows, 8, seed=3)
    assert sorted(len(e.ids) for b in batches for e in b) == list(range(1, 100))
    spread = np.mean([max(len(e.ids) for e in b) - min(len(e.ids) for e in b) for b in batches])
    assert spread < 20  # 8 rows drawn at random from 1..99 spread by about 77
    assert batches == loop.batches(rows, 8, seed=3) != loop.batches(rows, 8, seed=4)


def test_early_stop_ends_after_patience(small_base: Path, tmp_path: Path) -> None:
    """A learning rate that wrecks the model: no epoch beats the first."""
    torch.set_num_threads(1)
    wild = TUNE.model_copy(update={"learning_rate": 1.0, "epochs": 9, "patience": 1, "clip": 1e9})
    rows = examples(small_base)
    adapted = wild.adapt(bases.load(small_base, CLASSIFY, LABELS), CLASSIFY)
    curve = loop.fit(adapted, rows[:12], rows[12:], wild, False, tmp_path, Watch())
    losses = [p.valid_loss for p in curve if p.valid_loss is not None]
    assert len(losses) < 9 and losses[-1] >= min(losses[:-1])


CHAT = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (
        ("Is the door shut?", "Yes."),
        ("Which rooms are warm now, and which are not?", "The kitchen and the hall are warm."),
        ("Lights off.", "They are off now, all of them, in each room of the house."),
    )
]


def replies(base: Path, kernels: str, folder: Path) -> list[float]:
    """The losses of three steps of three rows each, without dropout."""
    torch.set_num_threads(1)
    task, data = TASKS["generate"], Data(source="none", task="generate")
    tune = Lora(rank=4, epochs=3, batch=3, learning_rate=1e-3, precision="fp32", kernels=kernels)
    rows = task.tokenize(CHAT, data, [], load_tokenizer(base)).examples
    adapted = tune.adapt(bases.load(base, task, []), task)
    curve = loop.fit(adapted, rows, rows, tune, False, folder, Watch())
    return [x for p in curve for x in (p.train_loss, p.valid_loss) if x is not None]


def test_packed_on_our_kernels_it_learns_as_padded_on_stock_peft(
    small_base: Path, tmp_path: Path
) -> None:
    ours = replies(small_base, "trivet", tmp_path / "ours")
    theirs = replies(small_base, "peft", tmp_path / "theirs")
    assert len(ours) == 6 and ours[-1] < 0.95 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
