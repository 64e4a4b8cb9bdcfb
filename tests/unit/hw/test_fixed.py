"""Fixed point is exact: integers only, rounded and saturated where the types say so.

Run: .venv/bin/pytest tests/unit/hw/test_fixed.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hw_reference import X, chain, exact

from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.network import Network
from trivet.hw.qat import quantize


def test_rounding_is_half_up_and_saturates() -> None:
    kind = Fixed(4, 2)  # -2 to 1.75 in quarters
    codes, saturated = kind.round(np.array([0.125, -0.125, 0.12, 1.75, 1.875, 9.0, -2.125, -2.2]))
    assert codes.tolist() == [1, 0, 0, 7, 7, 7, -8, -8]
    assert saturated == 3  # 1.875 rounds to 2, 9 and -2.2; -2.125 rounds up to -2
    assert Fixed(3, 1, signed=False).round(np.array([-1.0, 1.75, 5.0]))[0].tolist() == [0, 7, 7]
    assert kind.hls == "ap_fixed<4,2,AP_RND,AP_SAT>"
    assert str(Fixed(8, 3, signed=False)) == "ap_ufixed<8,3>"


@pytest.mark.parametrize(
    ("largest", "integer"), [(0.9, 1), (1.0, 2), (3.0, 3), (0.2, -1), (0.0, 1)]
)
def test_a_type_reaches_the_largest_value(largest: float, integer: int) -> None:
    assert Fixed.for_range(largest, 8) == Fixed(8, integer)
    assert Fixed.for_range(largest, 8, signed=False) == Fixed(8, integer - 1, signed=False)


def test_fake_quantize_rounds_exactly_and_passes_the_gradient() -> None:
    kind, x = Fixed(5, 2), torch.linspace(-3, 3, 1001, requires_grad=True)
    values = kind.fake_quantize(x)
    codes, _ = kind.round(x.detach().double().numpy())
    assert (values.detach().double().numpy() == np.ldexp(codes, -kind.fraction)).all()
    values.sum().backward()
    assert set(x.grad.tolist()) == {0.0, 1.0} and x.grad[500] == 1 and x.grad[0] == 0


def test_logits_are_those_of_exact_fractions(fixed: FixedNetwork) -> None:
    assert [exact(fixed, row) for row in X[-20:]] == fixed.logits(X[-20:]).tolist()


@pytest.mark.parametrize("rows", ["ids", "sequence", "flattened"])
def test_every_kind_of_step_is_exact(rows: str, tmp_path: Path) -> None:
    network, x = chain(rows)
    targets = np.eye(4)[network.logits(x).argmax(1)]
    kind = Fixed(4, 4, signed=False) if rows == "ids" else Fixed(7, 2)
    fixed = quantize(network, x[:200], targets[:200], 6, 6, 1, 0, input_type=kind)
    assert [layer.kind for layer in fixed.layers] == [step.kind for step in network.steps]
    logits = fixed.logits(x)
    assert [exact(fixed, row) for row in x[:60]] == logits[:60].tolist()
    assert len(np.unique(logits, axis=0)) > 2000
    assert (logits.argmax(1) == targets.argmax(1)).mean() > 0.7
    if rows != "ids":  # so saturation is compared too; the sums of ids reach no further
        assert sum(row.saturated for row in fixed.ranges(x))
    fixed.save(tmp_path)
    assert np.array_equal(FixedNetwork.load(tmp_path).logits(x), logits)
    network.save(tmp_path)
    assert np.array_equal(Network.load(tmp_path).logits(x), network.logits(x))


def test_an_id_that_no_token_has_is_refused() -> None:
    network, x = chain("ids")
    fixed = quantize(
        network, x[:50], np.eye(4)[x[:50, 0] % 4], 6, 6, 0, 0, input_type=Fixed(4, 4, False)
    )
    with pytest.raises(IndexError):
        fixed.logits(np.full((1, 17), 12))


def test_ranges_name_types_extremes_and_what_saturated(fixed: FixedNetwork) -> None:
    inputs, *layers = fixed.ranges(X)
    assert inputs.layer == "input" and inputs.output == "ap_ufixed<2,2>" and not inputs.weight
    assert inputs.range == (0, 3) and inputs.saturated == 0 and inputs.values == X.size
    assert [row.layer for row in layers] == ["dense_0", "dense_1", "dense_2"]
    assert [row.values for row in layers] == [len(X) * n for n in (32, 16, 10)]
    assert all(row.weight.startswith("ap_fixed<6,") for row in layers)
    assert [row.output.split("<")[0] for row in layers] == ["ap_ufixed", "ap_ufixed", "ap_fixed"]
    assert layers[2].saturated == 0  # logits are wide enough
    assert all(low <= high for low, high in (row.range for row in layers))
    # what each unit would like best, and no digit looks like
    inputs, first, *_ = fixed.ranges(4 * (fixed.weights[0] > 0).astype(np.uint8))
    assert inputs.saturated == (fixed.weights[0] > 0).sum()
    assert first.saturated > 0
    assert first.range[1] > 2 ** fixed.layers[0].output.integer


def test_a_saved_fixed_network_answers_the_same(fixed: FixedNetwork, tmp_path: Path) -> None:
    fixed.save(tmp_path / "student")
    loaded = FixedNetwork.load(tmp_path / "student")
    assert (loaded.logits(X) == fixed.logits(X)).all() and loaded.ranges(X) == fixed.ranges(X)
