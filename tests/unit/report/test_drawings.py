"""The loss curve and the heat map, odd ones too.

Run: .venv/bin/pytest tests/unit/report/test_drawings.py
"""

import re
from pathlib import Path

import numpy as np
import pytest
from report_run import (
    curve,
    make_run,
    page_of,
)

from trivet.records.score import Confusion, Curve, Point
from trivet.report import curve as curves
from trivet.report import curve_markdown, heat_map


def test_curve_in_markdown() -> None:
    points = curve().points
    lines = curve_markdown(curve()).splitlines()
    valid = {p.epoch: p.valid_loss for p in points if p.valid_loss is not None}
    best = min(valid, key=lambda e: valid[e])
    assert 1 < best < 10
    for epoch, line in zip(valid, lines[2:], strict=True):
        train = np.mean([p.train_loss for p in points if p.epoch == epoch])
        assert line.startswith(f"| {epoch} | {train:.3f} | {valid[epoch]:.3f} | █")
        assert line.endswith("kept |") == (epoch == best)


@pytest.mark.parametrize("losses", [[], [(float("nan"), None)], [(0.0, 0.0)]])
def test_odd_curves_still_make_a_page(
    tmp_path: Path, losses: list[tuple[float, float | None]]
) -> None:
    run = make_run(tmp_path)
    points = [
        Point(step=1, epoch=1, train_loss=train, valid_loss=valid, learning_rate=1e-4)
        for train, valid in losses
    ]
    Curve(points=points).write(run)
    assert "nan" not in re.findall(r"<svg class=\"curve\".*?</svg>", page_of(run), re.S)[0]
    assert len(curve_markdown(Curve(points=points)).splitlines()) == 2 + len(points)


def test_a_long_curve_keeps_its_mean() -> None:
    points = [(step, float(step % 7)) for step in range(1, 2101)]
    thin = curves.thin(points)
    assert len(thin) == 300
    assert np.mean([loss for _, loss in thin]) == pytest.approx(3.0)


def test_many_labels_are_cut_to_the_most_frequent() -> None:
    size = 60
    matrix = np.diag(np.arange(1, size + 1)).tolist()
    matrix[59][58] = 5
    labels = [f"label {i}" for i in range(size)]
    heat = heat_map.heat_map(Confusion(labels=labels, matrix=matrix))
    assert heat.names == [f"label {i}" for i in range(15, 60)]
    assert heat.mistakes == [(5, "label 59", "label 58")]
    assert heat.rows == size * (size + 1) // 2 + 5
