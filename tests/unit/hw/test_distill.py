"""A student learns from soft and from hard targets, alike from the same seed.

Run: .venv/bin/pytest tests/unit/hw/test_distill.py
"""

from pathlib import Path

import numpy as np
import torch
from hw_reference import LABELS, X

from trivet.hw.distill import distill
from trivet.hw.network import Network


def test_distill_learns_alike_from_the_same_seed() -> None:
    heard: list[tuple[int, float]] = []
    one_hot = np.eye(10)[LABELS[:1400]]
    first = distill(X[:1400], one_hot, [32], 12, 0, lambda *epoch_loss: heard.append(epoch_loss))
    logits = first.logits(X[1400:])
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == LABELS[1400:]).mean() > 0.85  # guessing gives .10
    assert [epoch for epoch, _ in heard] == list(range(1, 13))
    assert heard[-1][1] < heard[0][1] / 3
    again, other = (distill(X[:1400], one_hot, [32], 12, seed) for seed in (0, 1))
    assert (again.logits(X[1400:]) == logits).all()
    assert (other.logits(X[1400:]) != logits).any()


def test_a_pool_with_the_teachers_answers_beats_few_labels() -> None:
    teacher = distill(X[:1000], np.eye(10)[LABELS[:1000]], [32], 15, 0)
    soft = torch.softmax(torch.from_numpy(teacher.logits(X[:1400])), 1).numpy()
    distilled = distill(X[:1400], soft, [16], 15, 0)
    few = distill(X[:50], np.eye(10)[LABELS[:50]], [16], 15, 0)
    right = [(s.logits(X[1400:]).argmax(1) == LABELS[1400:]).mean() for s in (distilled, few)]
    assert right[0] > right[1] + 0.05


def test_a_saved_student_answers_the_same(tmp_path: Path) -> None:
    network = distill(X[:100], np.eye(10)[LABELS[:100]], [8, 8], 1, 0)
    network.save(tmp_path / "student")
    assert (Network.load(tmp_path / "student").logits(X) == network.logits(X)).all()
