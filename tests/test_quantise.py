"""Fixed point is exact: integers only, rounded and saturated where the types say so.

Run: .venv/bin/pytest tests/test_quantise.py
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trivet.hw.quantise import Fixed, FixedStudent, quantise
from trivet.hw.student import Student, distil

torch.set_num_threads(1)
DATA = load_digits()
X, TARGETS = (DATA.data * 3 / 16).round().astype(np.uint8), np.eye(10)[DATA.target]


@pytest.fixture(scope="module")
def student() -> Student:
    return distil(X[:1400], TARGETS[:1400], [32, 16], 10, 0)


@pytest.fixture(scope="module")
def fixed(student: Student) -> FixedStudent:
    return quantise(student, X[:1400], TARGETS[:1400], 6, 8, 5, 0)


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


def test_logits_are_those_of_exact_fractions(fixed: FixedStudent) -> None:
    for row, logits in zip(X[-5:], fixed.logits(X[-5:]), strict=True):
        values = [Fraction(int(count)) for count in row]
        for at, layer in enumerate(fixed.layers):
            weight, bias = (
                Fraction(2) ** -layer.weight.fraction,
                Fraction(2) ** -layer.bias.fraction,
            )
            sums = [
                sum((int(w) * weight * v for w, v in zip(ws, values, strict=True)), int(b) * bias)
                for ws, b in zip(fixed.weights[at], fixed.biases[at], strict=True)
            ]
            step = Fraction(2) ** -layer.output.fraction
            codes = [(s / step + Fraction(1, 2)).__floor__() for s in sums]
            values = [min(max(c, layer.output.low), layer.output.high) * step for c in codes]
        assert [float(v) for v in values] == logits.tolist()


def test_few_bits_cost_little_and_training_repairs(student: Student, fixed: FixedStudent) -> None:
    def right(model: Student | FixedStudent) -> float:
        return (model.logits(X[1400:]).argmax(1) == DATA.target[1400:]).mean()

    assert right(fixed) > right(student) - 0.02
    untrained, trained = (
        quantise(student, X[:1400], TARGETS[:1400], 3, 3, epochs, 0) for epochs in (0, 5)
    )
    assert right(trained) > right(untrained)
    again = quantise(student, X[:1400], TARGETS[:1400], 6, 8, 5, 0)
    assert (again.logits(X) == fixed.logits(X)).all()


def test_the_table_names_types_ranges_and_what_saturated(fixed: FixedStudent) -> None:
    table = fixed.table(X)
    assert [row["layer"] for row in table] == ["dense_0", "dense_1", "dense_2"]
    assert [row["values"] for row in table] == [len(X) * n for n in (32, 16, 10)]
    assert all(row["weight"].startswith("ap_fixed<6,") for row in table)
    assert [row["output"].split("<")[0] for row in table] == ["ap_ufixed", "ap_ufixed", "ap_fixed"]
    assert table[2]["saturated"] == 0  # logits are wide enough
    assert all(low <= high for low, high in (row["range"] for row in table))
    # what each unit would like best, and no digit looks like
    full = fixed.table(3 * (fixed.weights[0] > 0).astype(np.uint8))
    assert full[0]["saturated"] > 0
    assert full[0]["range"][1] > 2 ** fixed.layers[0].output.integer


def test_a_saved_fixed_student_answers_the_same(fixed: FixedStudent, tmp_path: Path) -> None:
    fixed.save(tmp_path / "student")
    loaded = FixedStudent.load(tmp_path / "student")
    assert (loaded.logits(X) == fixed.logits(X)).all() and loaded.table(X) == fixed.table(X)
