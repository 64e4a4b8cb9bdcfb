"""The student's features are the same everywhere, and it learns from soft and from hard targets.

Run: .venv/bin/pytest tests/test_student.py
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trivet.hw import student
from trivet.hw.network import Network

torch.set_num_threads(1)
TEXTS = [
    "Turn ON the kitchen light",
    "set the lamp to 50 %",
    "Wie spät ist es?",
    "",
    "la la la la la",
]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real pictures of digits as counts 0 to 3, [1797, 64], and their labels."""
    data = load_digits()
    return (data.data * 3 / 16).round().astype(np.uint8), data.target


def test_features_count_words_pairs_and_trigrams_up_to_the_cap() -> None:
    found = student.features(TEXTS, 4096)
    assert found.dtype == np.uint8 and found.shape == (5, 4096)
    # 5 words + 4 pairs + the trigrams of " turn on the kitchen light ", none of them twice
    assert found[0].sum() == 5 + 4 + len(" turn on the kitchen light ") - 2
    assert not found[3].any()
    assert found[4].max() == 1 and student.features(TEXTS, 4096, cap=5)[4].max() == 5
    assert (student.features([TEXTS[0].upper()], 4096) == found[:1]).all()
    assert student.features([], 64).shape == (0, 64)


def test_features_are_the_same_in_another_process() -> None:
    script = (
        "import hashlib; from trivet.hw.student import features; "
        f"print(hashlib.sha256(features({TEXTS!r}, 256).tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(student.features(TEXTS, 256).tobytes()).hexdigest()
    assert done.stdout.strip() == here


def test_distil_learns_alike_from_the_same_seed(digits) -> None:
    x, labels = digits
    heard: list[tuple[int, float]] = []
    one_hot = np.eye(10)[labels[:1400]]
    first = student.distil(x[:1400], one_hot, [32], 12, 0, lambda *told: heard.append(told))
    logits = first.logits(x[1400:])
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == labels[1400:]).mean() > 0.85  # guessing gives .10
    assert [epoch for epoch, _ in heard] == list(range(1, 13))
    assert heard[-1][1] < heard[0][1] / 3
    again, other = (student.distil(x[:1400], one_hot, [32], 12, seed) for seed in (0, 1))
    assert (again.logits(x[1400:]) == logits).all()
    assert (other.logits(x[1400:]) != logits).any()


def test_a_pool_with_the_teachers_answers_beats_few_labels(digits) -> None:
    x, labels = digits
    teacher = student.distil(x[:1000], np.eye(10)[labels[:1000]], [32], 15, 0)
    soft = torch.softmax(torch.from_numpy(teacher.logits(x[:1400])), 1).numpy()
    distilled = student.distil(x[:1400], soft, [16], 15, 0)
    few = student.distil(x[:50], np.eye(10)[labels[:50]], [16], 15, 0)
    right = [(s.logits(x[1400:]).argmax(1) == labels[1400:]).mean() for s in (distilled, few)]
    assert right[0] > right[1] + 0.05


def test_a_saved_student_answers_the_same(digits, tmp_path: Path) -> None:
    x, labels = digits
    made = student.distil(x[:100], np.eye(10)[labels[:100]], [8, 8], 1, 0)
    made.save(tmp_path / "student")
    assert (Network.load(tmp_path / "student").logits(x) == made.logits(x)).all()
