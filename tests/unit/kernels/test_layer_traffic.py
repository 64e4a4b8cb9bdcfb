"""What a LoRA layer moves: the baselines against counts by hand, ours where everything fits.

What ours moves at real shapes is in tests/compile/test_verification.py.
Run: .venv/bin/pytest tests/unit/kernels/test_layer_traffic.py
"""

import pytest
import torch

from trivet.kernels.verify import layer_traffic
from trivet.kernels.verify.baselines import BASELINES, LayerTraffic, Shape, count
from trivet.kernels.verify.layer_traffic import compulsory, ours

BIG = layer_traffic.SHAPES[0]


@pytest.mark.parametrize(
    "name, forward, backward",
    [
        ("PEFT", (7, 1444, 135), (10, 1782, 0)),
        ("PEFT, 16-bit adapters", (5, 638, 0), (7, 773, 0)),
        ("PEFT, dropout 0.1", (10, 2384, 269), (11, 2184, 0)),
        ("two GEMMs", (3, 370, 0), (7, 640, 0)),
    ],
)
def test_what_others_move(name: str, forward: tuple[int, ...], backward: tuple[int, ...]) -> None:
    for layer, expected in zip(BASELINES[name](BIG), (forward, backward), strict=True):
        assert (layer.launches, round(layer.bytes / 1e6), round(layer.saved / 1e6)) == expected


def test_a_count_by_hand() -> None:
    """A view is no launch; an expanded tensor is read once; a sum in place reads what it writes."""
    x, y = (torch.empty(4, 8, device="meta") for _ in range(2))
    layer, _ = count(lambda: y.T.add_(x.T[:, :1].expand(8, 4)))
    assert layer == LayerTraffic(1, (8 + 32 + 32) * 4, 0)


def test_the_least_that_a_layer_moves() -> None:
    at = Shape(3, 5, 7, 2)
    x, w, a, b, y = 3 * 5 * 2, 5 * 7 * 2, 2 * 5 * 4, 7 * 2 * 4, 3 * 7 * 2
    assert compulsory(at, "forward") == x + w + a + b + y
    assert compulsory(at, "backward") == y + x + w + 2 * (a + b) + x


def test_ours_moves_each_byte_once_while_everything_fits_into_the_cache() -> None:
    at = Shape(256, 256, 256)
    h = 2 * at.M * at.R
    assert ours(at, "forward", {}) == LayerTraffic(1, compulsory(at, "forward") + h, h)
