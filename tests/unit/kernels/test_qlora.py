"""QLoRA's layer: gradients, both ways through the four bits, what it holds, what it refuses.

That its fused kernels are right on drawn shapes is in test_kernels.py.
Run: .venv/bin/pytest tests/unit/kernels/test_qlora.py
"""

import weakref
from typing import Any

import pytest
import torch
from gradient_checks import STATES, check_qlora_slope
from gradient_checks import qlora_inputs as inputs

from trivet.kernels.hardware.gpus import LAUNCH, TARGETS
from trivet.kernels.ops import kernel, nf4
from trivet.kernels.ops.dora.triton import launch_row_norm
from trivet.kernels.ops.lora import split
from trivet.kernels.ops.lora.cpu import cpu_backward, cpu_forward
from trivet.kernels.ops.lora.launch import launch_backward, launch_forward
from trivet.kernels.ops.lora.op import lora_op
from trivet.kernels.ops.nf4 import op as nf4_op
from trivet.kernels.ops.qlora import qlora_linear
from trivet.kernels.ops.weight import Weight


@pytest.mark.parametrize("name", STATES)
def test_gradients(name: str) -> None:
    """Along one direction; the whole Jacobian is in tests/compile/test_gradient_sweep.py."""
    check_qlora_slope(name, fast=True)


@pytest.mark.parametrize("name", STATES)
def test_fused_split_and_cpu_agree(name: str) -> None:
    layer = inputs(torch.float32, M=33, N=20, K=128)
    x, a, b = (layer[n].detach() for n in "xab")
    fused = Weight.of(STATES[name](layer["w"]))
    copy = Weight.of(fused.dense(torch.float32))
    dy, rest = torch.randn(33, 20), (1.5, 0.0, 0)
    results = []
    for forward, backward, w in (
        (launch_forward, launch_backward, fused),
        (launch_forward, launch_backward, copy),
        (cpu_forward, cpu_backward, fused),
    ):
        y, h = forward(x, w, None, a, b, None, *rest)
        results.append((y, *backward(dy, x, w, None, a, b, None, h, None, *rest)[:3]))
    # sums of up to 128 products of size 10 in another order: 128 · 10 · 2⁻²⁴ · 2
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=2e-4)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=2e-4)


def test_operator_is_sound() -> None:
    layer = inputs(torch.float32)
    w = Weight.of(nf4.quantise(layer["w"]))
    args = (layer["x"], w.data, w.state, w.format, w.block, None, layer["a"], layer["b"])
    torch.library.opcheck(lora_op, (*args, None, 1.5, 0.0, 0))


def test_no_more_than_one_layers_weights_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers, forward and backward: of dequantised weights one is alive at a time."""
    copies: list[Any] = []
    most = []
    stock = nf4_op.dequantise_op

    def dequantise(*args: Any) -> torch.Tensor:
        out = stock(*args)
        copies.append(weakref.ref(out))
        most.append(sum(ref() is not None for ref in copies))
        return out

    monkeypatch.setattr(nf4_op, "dequantise_op", dequantise)
    torch.manual_seed(0)
    states = [nf4.quantise(torch.randn(64, 64)) for _ in range(6)]
    a, b = torch.randn(4, 64, requires_grad=True), torch.randn(64, 4, requires_grad=True)
    y = torch.randn(3, 64, requires_grad=True)
    for state in states:
        y = qlora_linear(y, state, None, a, b, 1.0)
    y.sum().backward()
    assert most == [1] * 12  # once forward and once backward in each


def test_the_rule_is_the_roofline() -> None:
    """Few rows: fused. Many: split, for the tile is dequantised once for each block of rows."""
    for target in TARGETS:
        chosen = [split.fused(M, 4096, 4096, "nf4", target) for M in (1, 64, 128, 1 << 17)]
        assert chosen == [True, True, True, False]
        # int4 is quicker to dequantise: an MI300X does it in step with its matrix units
        assert split.fused(1 << 17, 4096, 4096, "int4", target) == (target == "gfx942")
        crossings = [split.fused(M, 4096, 4096, "nf4", target) for M in range(128, 65536, 128)]
        assert sorted(crossings, reverse=True) == crossings  # it changes its mind once
    d = TARGETS["sm_90"]
    M, N, K = 8192, 4096, 4096
    inside = 64 * N * K * split.OPS["nf4"] / d.vector
    before = 2 * M * N * K / d.flops + (2 + 4.13 / 8) * N * K / d.bandwidth + LAUNCH
    assert inside > before and not split.fused(M, N, K, "nf4", "sm_90")


def test_settle_makes_the_copy_where_the_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    w = Weight.of(nf4.quantise(torch.randn(512, 512)))
    monkeypatch.setattr(kernel, "target", lambda: "sm_90")
    assert split.settle(w, torch.empty(8, 512)) is w
    copy = split.settle(w, torch.empty(1 << 20, 512, dtype=torch.bfloat16, device="meta"))
    assert copy.format == "dense" and copy.data.dtype == torch.bfloat16
    torch.testing.assert_close(copy.data, w.dense(torch.bfloat16))


def test_blocks_that_straddle_rows_are_multiplied_from_a_copy() -> None:
    """Three rows of 96 in NF4 blocks of 64, and the row norm of them from the bytes."""
    layer = inputs(torch.float32, N=3, K=96)
    state = nf4.quantise(layer["w"])
    copy = split.settle(Weight.of(state), layer["x"])
    assert copy.format == "dense" and torch.equal(copy.data, state.dequantise())
    a, b = layer["a"].detach(), layer["b"].detach()
    norm = (copy.data + 1.5 * b @ a).norm(dim=1)
    torch.testing.assert_close(launch_row_norm(Weight.of(state), a, b, 1.5), norm)
    with pytest.raises(ValueError, match="blocks of 64 straddle the rows of a weight of shape"):
        Weight.of(state).constants()


def test_bad_input_is_refused() -> None:
    layer = inputs(torch.float32)
    state = nf4.quantise(torch.randn(8, 64))
    with pytest.raises(ValueError, match=r"state holds a weight of shape \(8, 64\), but b"):
        qlora_linear(layer["x"], state, None, layer["a"], layer["b"], 1.0)
    with pytest.raises(ValueError, match="rank of a"):
        qlora_linear(layer["x"], state, None, torch.zeros(0, 64), torch.zeros(8, 0), 1.0)
