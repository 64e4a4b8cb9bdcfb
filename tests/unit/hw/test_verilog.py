"""The compiled program answers as the fixed-point network does, before any simulator sees it.

Run: .venv/bin/pytest tests/unit/hw/test_verilog.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hw_reference import chain

from trivet.hw.errors import DesignError
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.network import Network, mlp
from trivet.hw.qat import quantize
from trivet.hw.rtl import verilog
from trivet.hw.rtl.interpreter import Interpreter
from trivet.hw.rtl.records import Port, RtlDesign
from trivet.hw.steps import Step
from trivet.hw.vectors import Equality, compare

PART = "xcku5p-ffvb676-2-e"


@pytest.mark.parametrize("rows", ["ids", "sequence", "flattened"])
def test_every_kind_of_layer_is_equal_bit_for_bit(rows: str, tmp_path: Path) -> None:
    network, x = chain(rows)
    targets = np.eye(4)[network.logits(x).argmax(1)]
    kind = Fixed(4, 4, signed=False) if rows == "ids" else Fixed(5, 2)
    fixed = quantize(network, x[:200], targets[:200], 3, 4, 1, 0, input_type=kind, sparsity=0.5)
    design = verilog.write(fixed, tmp_path, PART, max_cycles=5)
    design.write(tmp_path)
    assert design.cycles == design.promised_cycles <= 5 and design.interval is None
    cost, cycles = verilog.estimate(fixed)
    assert cost == pytest.approx(design.cost, rel=0.02) and cycles >= design.cycles
    equality = compare(fixed, Interpreter(tmp_path).logits, x[:500], 10_000)
    assert equality == Equality(500, 500, 10_000, 10_000)


def test_signed_numbers_and_strides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    steps = [Step("conv", relu=True, stride=2), Step("conv"), Step("dense", relu=True)]
    weights = [torch.randn(shape) for shape in ((3, 2, 3), (4, 3, 2), (4, 12))]
    network = Network((10, 2), steps, weights, [torch.randn(n) for n in (3, 4, 4)])
    x = np.random.default_rng(0).normal(size=(300, 10, 2))
    targets = np.eye(4)[np.abs(x.reshape(len(x), 4, -1)).sum(2).argmax(1)]
    fixed = quantize(network, x, targets, 4, 5, 2, 0, input_type=Fixed(5, 2))
    fixed.weights[0][2], fixed.biases[0][2] = 0, 6  # a dead channel is a constant
    verilog.write(fixed, tmp_path, PART, 12, 10.0).write(tmp_path)
    equality = compare(fixed, Interpreter(tmp_path).logits, x, 50_000)
    assert equality == Equality(300, 300, 50_000, 50_000)


def test_a_layer_that_no_input_moves_is_refused() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 4, (50, 24))
    arguments = mlp(24, [12, 8], 4), x, np.eye(4)[x[:, 0]], 4, 5, 0, 0
    fixed = quantize(*arguments, input_type=Fixed(2, 2, signed=False))
    for at in range(3):
        weights = [codes * (i != at) for i, codes in enumerate(fixed.weights)]
        dead = FixedNetwork(fixed.input_type, fixed.shape, fixed.layers, weights, fixed.biases)
        with pytest.raises(DesignError, match=f"Layer {at} .* same for every row"):
            verilog.symbolic_layers(dead)


def test_a_pipeline_needs_two_cycles(fixed: FixedNetwork, tmp_path: Path) -> None:
    with pytest.raises(DesignError, match="^max_cycles = 1: rows and logits"):
        verilog.write(fixed, tmp_path, PART, max_cycles=1)


def test_a_folder_without_a_design_says_so(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match=r"rtl\.json is missing"):
        RtlDesign.read(tmp_path)


def test_ports_write_and_read_the_same_codes() -> None:
    for signed, width, fields in ((True, 9, 5), (False, 2, 7), (True, 1, 3), (False, 16, 1)):
        port = Port(fields, signed, width, 0)
        low, high = (-(1 << width - 1), 1 << width - 1) if signed else (0, 1 << width)
        codes = np.random.default_rng(0).integers(low, high, (50, fields))
        text = port.to_hex(codes)
        assert set(map(len, text.split())) == {port.digits}
        assert np.array_equal(port.from_hex(text), codes)
    assert Port(3, False, 4, 0).to_hex(np.array([[1, 2, 3]])) == "0321\n"
