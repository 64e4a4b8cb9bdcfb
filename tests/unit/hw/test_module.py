"""A user's module becomes a chain with the same logits, or is refused by name.

Run: .venv/bin/pytest tests/unit/hw/test_module.py
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trivet.hw.distill import train
from trivet.hw.errors import DesignError
from trivet.hw.fixed import Fixed
from trivet.hw.module import Mean, Sum, from_module
from trivet.hw.qat import quantize

torch.set_num_threads(1)


class Words(nn.Module):
    """Ids through a table and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6, padding_idx=0)
        self.conv = nn.Conv1d(6, 8, 3, stride=2)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids).transpose(1, 2)
        x = nn.functional.relu(self.norm(self.conv(x)))
        return self.head(nn.functional.dropout(x.mean(dim=-1), 0.2, self.training))


class Signal(nn.Module):
    """One channel, two convolutions, flattened channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 4, 5, 2), nn.Conv1d(4, 6, 3, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Sequential(
            nn.Linear(6 * 12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout()
        )
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.unflatten(1, (1, -1))))
        x = self.norm(self.second(x)).relu()
        return self.last(self.head(x.view(x.size(0), -1)))


class Rows(nn.Module):
    """Positions before channels, averaged at the very end."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.conv, self.out = nn.Linear(5, 6), nn.Conv1d(6, 4, 2), nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.each(x)).permute(0, 2, 1)
        return torch.mean(self.out(torch.relu(self.conv(x))), 2)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "numbers": (
        lambda: nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        (9,),
        0,
    ),
    "one layer": (lambda: nn.Linear(9, 3), (9,), 0),
    "no bias, no ReLU": (
        lambda: nn.Sequential(nn.Linear(9, 8, bias=False), nn.Identity(), nn.Linear(8, 3)),
        (9,),
        0,
    ),
    "mean of words": (
        lambda: nn.Sequential(nn.Embedding(20, 6), Mean(), nn.Linear(6, 3)),
        (11,),
        20,
    ),
    "sum of words": (
        lambda: nn.Sequential(
            nn.Embedding(20, 6), Sum(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)
        ),
        (11,),
        20,
    ),
    "words": (Words, (17,), 20),
    "signal": (Signal, (31,), 0),
    "rows": (Rows, (12, 5), 0),
    "flat rows": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), (12, 5), 0),
    "picture": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 4, 8, 8), nn.Flatten(), nn.Linear(32, 3)
        ),
        (64,),
        0,
    ),
}


def module_and_rows(name: str) -> tuple[nn.Module, np.ndarray]:
    """A module with batch-norms that have seen data, and 4,000 rows for it."""
    build, shape, tokens = MODULES[name]
    torch.manual_seed(0)
    module, draw = build(), np.random.default_rng(0)
    if tokens:
        x = draw.integers(0, tokens, (4000, *shape))
    else:
        x = draw.normal(0, 1, (4000, *shape)).astype(np.float32)
    with torch.no_grad():
        for rows in torch.from_numpy(x).split(500):
            module(rows)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return module.eval(), x


@pytest.mark.parametrize("name", MODULES)
def test_the_chain_gives_the_modules_logits(name: str) -> None:
    module, x = module_and_rows(name)
    network = from_module(module, x.shape[1:])
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert len(np.unique(expected, axis=0)) > 3000
    assert np.abs(network.logits(x) - expected).max() < 1e-5 * np.abs(expected).max()
    assert network.shapes[-1] == (3,)


@pytest.mark.parametrize("name", ["words", "signal", "rows", "mean of words"])
def test_it_goes_into_fixed_point(name: str) -> None:
    module, x = module_and_rows(name)
    network = from_module(module, x.shape[1:])
    logits = network.logits(x)
    kind = Fixed(5, 5, signed=False) if MODULES[name][2] else Fixed(8, 3)
    fixed = quantize(network, x, np.eye(3)[logits.argmax(1)], 8, 8, 0, 0, input_type=kind)
    assert (fixed.logits(x).argmax(1) == logits.argmax(1)).mean() > 0.95
    assert fixed.shapes == network.shapes


class Call(nn.Module):
    """A Linear, then what a test puts there."""

    def __init__(self, call: Callable[[Tensor], Tensor], first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.call = first or nn.Linear(6, 6), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.first(x))


def linear(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), *between, nn.Linear(6, 3))


ROWS = nn.Conv1d(2, 6, 3, padding=1)
REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "gelu": (linear(nn.GELU()), (6,), r"'1' \(GELU\) cannot go on the chip. Instead, use ReLU"),
    "sigmoid": (Call(torch.sigmoid), (6,), "'sigmoid' cannot go on the chip. Instead, use ReLU"),
    "softmax": (linear(nn.Softmax(-1)), (6,), "leave it out"),
    "layer norm": (linear(nn.LayerNorm(6)), (6,), "Instead, use BatchNorm1d"),
    "norm after ReLU": (linear(nn.ReLU(), nn.BatchNorm1d(6)), (6,), "is not right after a Linear"),
    "ReLU first": (nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), (6,), "'0' .ReLU. is not after"),
    "residual": (Call(lambda x: x + torch.relu(x)), (6,), "'add' does not take.*one chain"),
    "twice": (Call(lambda x: x + x), (6,), "'add' cannot go on the chip.*one chain"),
    "scaled": (Call(lambda x: 2 * x), (6,), "'mul'"),
    "branching": (Call(lambda x: x if x.sum() > 0 else -x), (6,), "could not be traced"),
    "recurrent": (
        Call(lambda x: x[0][:, -1], nn.GRU(2, 3, batch_first=True)),
        (6, 2),
        "GRU.*Conv1d",
    ),
    "padded": (Call(lambda x: x.mean(-1), nn.Sequential(nn.Flatten(2), ROWS)), (2, 9), "Flatten"),
    "mean of features": (Call(lambda x: x.mean(-1)), (6,), "'mean' is not over the positions"),
    "mean of channels": (Call(lambda x: x.mean(-1)), (4, 6), "'mean' is not over the positions"),
    "no weights": (Mean(), (4, 6), "its output is not one row of logits"),
    "no vector": (nn.Linear(6, 3), (4, 6), "its output is not one row of logits"),
    "wrong width": (nn.Linear(6, 3), (7,), r"does not take rows of shape \(7,\)"),
    "ids later": (
        nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.MaxPool1d(2)),
        (8,),
        "MaxPool1d.*Conv1d with a stride",
    ),
    "dtype": (Call(lambda x: x.mean(1, dtype=torch.float64)), (4, 6), "has arguments"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_by_name(name: str) -> None:
    module, shape, words = REFUSED[name]
    with pytest.raises(DesignError, match=words) as caught:
        from_module(module, shape)
    assert "It may have: Embedding" in str(caught.value) or name == "wrong width"


def test_a_convolution_needs_its_channels_first_and_no_padding() -> None:
    with pytest.raises(
        DesignError, match=r"Conv1d. is fed rows as \[length, channels\]: put x.trans"
    ):
        from_module(nn.Sequential(nn.Conv1d(2, 6, 1), Mean()), (2, 2))
    for more in ({"padding": 1}, {"dilation": 2}, {"groups": 2}):
        conv = Call(lambda x: x.mean(-1), Call(nn.Conv1d(2, 6, 3, **more), Turn()))
        with pytest.raises(DesignError, match="has padding, dilation or groups"):
            from_module(conv, (9, 2))


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_a_module_that_is_not_what_it_says_is_found_out() -> None:
    module = linear(nn.ReLU())
    module[0].register_forward_hook(lambda module, inputs, out: out * 2)
    with pytest.raises(DesignError, match="read as a chain it gives other logits"):
        from_module(module, (6,))


def test_a_users_module_is_trained_with_its_batch_norm() -> None:
    module, x = module_and_rows("words")
    labels = (x == 3).any(1).astype(int) + (x == 5).any(1)
    network = train(module, x, np.eye(3)[labels], 10, 0)
    assert (network.logits(x).argmax(1) == labels).mean() > 0.8 > np.bincount(labels).max() / len(x)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert np.abs(network.logits(x) - expected).max() < 1e-5 * np.abs(expected).max()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(DesignError, match="cannot go on the chip"):
        train(nn.Sequential(module, nn.Tanh()), x, np.eye(3)[labels], 1, 0)
    assert all((module.state_dict()[name] == value).all() for name, value in before.items())
