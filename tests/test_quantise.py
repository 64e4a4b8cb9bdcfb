"""Fixed point is exact: integers only, rounded and saturated where the types say so.

Run: .venv/bin/pytest tests/test_quantise.py
"""

import copy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trivet import UserError
from trivet.hw.fixed import Fixed, FixedStudent, random_rows
from trivet.hw.network import Network, Step
from trivet.hw.quantise import quantise
from trivet.hw.student import distil

torch.set_num_threads(1)
GREY = Fixed(2, 2, signed=False)  # of the pictures' pixels
DATA = load_digits()
X, TARGETS = (DATA.data * 3 / 16).round().astype(np.uint8), np.eye(10)[DATA.target]


@pytest.fixture(scope="module")
def student() -> Network:
    return distil(X[:1400], TARGETS[:1400], [32, 16], 10, 0)


@pytest.fixture(scope="module")
def fixed(student: Network) -> FixedStudent:
    return quantise(student, X[:1400], TARGETS[:1400], 6, 8, 5, 0, given=GREY)


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
    assert Fixed.holding(largest, 8) == Fixed(8, integer)
    assert Fixed.holding(largest, 8, signed=False) == Fixed(8, integer - 1, signed=False)


def test_training_imitates_the_rounding_exactly() -> None:
    kind, x = Fixed(5, 2), torch.linspace(-3, 3, 1001, requires_grad=True)
    shown = kind.imitate(x)
    codes, _ = kind.round(x.detach().double().numpy())
    assert (shown.detach().double().numpy() == np.ldexp(codes, -kind.fraction)).all()
    shown.sum().backward()
    assert set(x.grad.tolist()) == {0.0, 1.0} and x.grad[500] == 1 and x.grad[0] == 0


def chain(given: str) -> tuple[Network, np.ndarray]:
    """A network of every kind of step but those that `given` rules out, and rows for it."""
    start, draw = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=start) / max(shape[1:], default=8) ** 0.5

    none = torch.zeros(0)
    conv = (Step("conv", relu=True, stride=2), numbers(6, 3, 4), numbers(6))
    signed = (Step("conv"), numbers(5, 6, 2), numbers(5))
    after = [(Step("sum"), none, none), (Step("dense"), numbers(4, 5), numbers(4))]
    if given == "ids":
        steps = [(Step("embedding"), numbers(11, 3), none), conv, signed, *after]
        shape, x = (17,), draw.integers(0, 11, (3000, 17))
    elif given == "sequence":
        steps, shape = [conv, signed, *after], (17, 3)
        x = draw.normal(0, 1, (3000, 17, 3))
    else:  # a convolution flattened into a dense layer, and a sum at the end of all
        steps, shape = [conv, (Step("dense", relu=True), numbers(7, 42), numbers(7))], (17, 3)
        steps += [(Step("dense"), numbers(4, 7), numbers(4))]
        x = draw.normal(0, 1, (3000, 17, 3))
    return Network(shape, *zip(*steps, strict=True)), x


def exact(fixed: FixedStudent, row: np.ndarray) -> list[float]:
    """The logits of one row in fractions, step by step as `FixedStudent` says it."""
    values = np.vectorize(Fraction)(fixed.given.hold(row.reshape(fixed.shape)))
    for layer, weight, bias in zip(fixed.layers, fixed.weights, fixed.biases, strict=True):
        w = weight * (Fraction(2) ** -layer.weight.fraction)
        b = bias * (Fraction(2) ** -layer.bias.fraction)
        if layer.kind == "embedding":
            values = w[values.astype(int)]
            continue
        if layer.kind == "sum":
            values = values.sum(0)
            continue
        if layer.kind == "dense":
            sums = w @ values.reshape(-1) + b
        else:
            starts = range(0, len(values) - w.shape[2] + 1, layer.stride)
            windows = [values[at : at + w.shape[2]] for at in starts]
            sums = np.array([[(o.T * window).sum() for o in w] for window in windows]) + b
        step = Fraction(2) ** -layer.output.fraction
        sums = np.maximum(sums, 0) if layer.relu else sums
        codes = np.vectorize(lambda s, step=step: (s / step + Fraction(1, 2)).__floor__())(sums)
        values = np.clip(codes, layer.output.low, layer.output.high) * step
    return [float(value) for value in values]


def test_logits_are_those_of_exact_fractions(fixed: FixedStudent) -> None:
    assert [exact(fixed, row) for row in X[-20:]] == fixed.logits(X[-20:]).tolist()


@pytest.mark.parametrize("given", ["ids", "sequence", "flattened"])
def test_every_kind_of_step_is_exact(given: str, tmp_path: Path) -> None:
    network, x = chain(given)
    targets = np.eye(4)[network.logits(x).argmax(1)]
    kind = Fixed(4, 4, signed=False) if given == "ids" else Fixed(7, 2)
    made = quantise(network, x[:200], targets[:200], 6, 6, 1, 0, given=kind)
    assert [layer.kind for layer in made.layers] == [step.kind for step in network.steps]
    logits = made.logits(x)
    assert [exact(made, row) for row in x[:60]] == logits[:60].tolist()
    assert len(np.unique(logits, axis=0)) > 2000
    assert (logits.argmax(1) == targets.argmax(1)).mean() > 0.7
    if given != "ids":  # so saturation is compared too; the sums of ids reach no further
        assert sum(row["saturated"] for row in made.table(x))
    made.save(tmp_path)
    assert np.array_equal(FixedStudent.load(tmp_path).logits(x), logits)
    network.save(tmp_path)
    assert np.array_equal(Network.load(tmp_path).logits(x), network.logits(x))


@pytest.mark.parametrize("given", ["ids", "sequence"])
def test_random_rows_hold_the_edges_and_stay_in_range(given: str) -> None:
    network, x = chain(given)
    kind = Fixed(4, 4, signed=False) if given == "ids" else Fixed(7, 2)
    made = quantise(network, x[:50], np.eye(4)[np.arange(50) % 4], 6, 6, 0, 0, given=kind)
    rows = random_rows(made, 2000, 0)
    low, high = (0, 10) if given == "ids" else (-2, 2 - 2**-5)
    assert rows.shape == (2000, *network.shape) and rows.dtype == np.float32
    size, ends = rows[0].size, [high] if given == "ids" else [high, low]
    edges = [np.zeros((1, size)), *(np.full((1, size), end) for end in ends)]
    edges = np.vstack([*edges, *(np.eye(size) * end for end in ends)])
    assert np.array_equal(rows[: len(edges)].reshape(-1, size), edges)
    assert rows.min() == low and rows.max() == high and (kind.hold(rows) == rows).all()
    filled = (rows.reshape(2000, -1)[len(edges) :] != 0).mean(1)
    assert filled.min() < 0.1 and filled.max() > 0.7
    assert np.array_equal(rows, random_rows(made, 2000, 0))
    assert random_rows(made, 2, 0).shape == (2, *network.shape)


def test_an_id_that_no_token_has_is_refused() -> None:
    network, x = chain("ids")
    made = quantise(network, x[:50], np.eye(4)[x[:50, 0] % 4], 6, 6, 0, 0, given=Fixed(4, 4, False))
    with pytest.raises(IndexError):
        made.logits(np.full((1, 17), 12))


def test_few_bits_cost_little_and_training_repairs(student: Network, fixed: FixedStudent) -> None:
    def right(model: Network | FixedStudent) -> float:
        return (model.logits(X[1400:]).argmax(1) == DATA.target[1400:]).mean()

    assert right(fixed) > right(student) - 0.02
    untrained, trained = (
        quantise(student, X[:1400], TARGETS[:1400], 3, 3, epochs, 0, given=GREY)
        for epochs in (0, 5)
    )
    assert right(trained) > right(untrained)
    again = quantise(student, X[:1400], TARGETS[:1400], 6, 8, 5, 0, given=GREY)
    assert (again.logits(X) == fixed.logits(X)).all()


def test_the_table_names_types_ranges_and_what_saturated(fixed: FixedStudent) -> None:
    given, *table = fixed.table(X)
    assert given["layer"] == "input" and given["output"] == "ap_ufixed<2,2>" and not given["weight"]
    assert given["range"] == [0, 3] and given["saturated"] == 0 and given["values"] == X.size
    assert [row["layer"] for row in table] == ["dense_0", "dense_1", "dense_2"]
    assert [row["values"] for row in table] == [len(X) * n for n in (32, 16, 10)]
    assert all(row["weight"].startswith("ap_fixed<6,") for row in table)
    assert [row["output"].split("<")[0] for row in table] == ["ap_ufixed", "ap_ufixed", "ap_fixed"]
    assert table[2]["saturated"] == 0  # logits are wide enough
    assert all(low <= high for low, high in (row["range"] for row in table))
    # what each unit would like best, and no digit looks like
    given, first, *_ = fixed.table(4 * (fixed.weights[0] > 0).astype(np.uint8))
    assert given["saturated"] == (fixed.weights[0] > 0).sum()
    assert first["saturated"] > 0
    assert first["range"][1] > 2 ** fixed.layers[0].output.integer


def test_bits_may_differ_by_layer(student: Network) -> None:
    made = quantise(student, X[:200], TARGETS[:200], [3, 4, 7], [5, 6, 6], 0, 0, given=GREY)
    assert [layer.weight.width for layer in made.layers] == [3, 4, 7]
    assert [layer.output.width for layer in made.layers[:2]] == [5, 6]
    network, x = chain("ids")
    bits = {"weight_bits": [4, 5, 6, 7], "activation_bits": [6, 7, 8, 9]}
    ids = Fixed(4, 4, signed=False)
    made = quantise(network, x[:50], np.eye(4)[x[:50, 0] % 4], **bits, epochs=0, seed=0, given=ids)
    assert [made.layers[at].weight.width for at in (0, 1, 2, 4)] == [4, 5, 6, 7]
    assert [layer.output.width for layer in made.layers[:4]] == [4, 7, 8, 8 + 3]  # 6 positions
    with pytest.raises(UserError, match=r"weight_bits = \[3, 4\]: the network has 3 layers"):
        quantise(student, X[:50], TARGETS[:50], [3, 4], 6, 0, 0, given=GREY)
    with pytest.raises(UserError, match=r"lower fpga.weight_bits"):
        quantise(student, X[:50], TARGETS[:50], 26, 26, 0, 0, given=GREY)


def test_the_smallest_weights_become_zero_and_training_repairs(student: Network) -> None:
    def made(epochs: int, sparsity: float | list[float]) -> FixedStudent:
        given = X[:1400], TARGETS[:1400], 4, 5, epochs, 0
        return quantise(student, *given, given=GREY, sparsity=sparsity)

    def right(model: FixedStudent) -> float:
        return (model.logits(X[1400:]).argmax(1) == DATA.target[1400:]).mean()

    at_once, slowly = made(0, 0.7), made(10, 0.7)
    for found in (at_once, slowly):
        for w in found.weights:
            assert (w == 0).sum() >= round(0.7 * w.size)
    assert right(slowly) > right(at_once) + 0.1
    largest = student.weights[0].abs().flatten().topk(round(0.3 * 2048)).indices
    assert not np.delete(at_once.weights[0].reshape(-1), largest).any()
    zeros = [(w == 0).mean() for w in made(0, [0.9, 0.0, 0.5]).weights]
    assert zeros[0] > 0.89 and zeros[1] < 0.5 <= zeros[2]
    with pytest.raises(UserError, match="fpga.sparsity"):
        made(0, [0.9, 0.0])


def test_a_channel_may_have_a_scale_of_its_own(student: Network) -> None:
    uneven = copy.deepcopy(student)
    with torch.no_grad():  # the same answers, but half of the units have small weights
        uneven.weights[0][::2] /= 8
        uneven.biases[0][::2] /= 8
        uneven.weights[1][:, ::2] *= 8

    def wrong(**how: bool) -> float:
        made = quantise(uneven, X[:1400], TARGETS[:1400], [4, 9, 9], 12, 0, 0, **how, given=GREY)
        assert [exact(made, row) for row in X[:3]] == made.logits(X[:3]).tolist()
        return np.abs(made.logits(X) - student.logits(X)).mean()

    assert wrong(per_channel=True) < 0.7 * wrong()
    made = quantise(uneven, X[:1400], TARGETS[:1400], 4, 8, 2, 0, per_channel=True, given=GREY)
    for weight, layer in zip(made.weights, made.layers, strict=True):
        assert layer.weight.low <= weight.min() and weight.max() <= layer.weight.high
        assert layer.weight.width <= 4 + 4
        step = np.gcd.reduce(weight, axis=1, keepdims=True)
        assert (np.abs(weight // step) <= 8).all()  # each row is 4 bits wide in its own scale


def test_a_saved_fixed_student_answers_the_same(fixed: FixedStudent, tmp_path: Path) -> None:
    fixed.save(tmp_path / "student")
    loaded = FixedStudent.load(tmp_path / "student")
    assert (loaded.logits(X) == fixed.logits(X)).all() and loaded.table(X) == fixed.table(X)
