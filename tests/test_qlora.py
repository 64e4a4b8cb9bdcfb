"""QLoRA's layer: gradients, both ways through the four bits, what it holds, what it refuses.

That its fused kernels are right on drawn shapes is in test_kernels.py.
Run: .venv/bin/pytest tests/test_qlora.py
"""

import weakref
from typing import Any

import pytest
import torch
from trivet.kernels.lora_launch import launch_backward, launch_forward
from trivet.kernels.qlora import qlora_linear
from trivet.kernels.weight import Weight

from trivet.kernels import dora, int4, lora, nf4, roofline

STATES = {
    "nf4": lambda w: nf4.quantise(w, double=False),
    "nf4 double": nf4.quantise,
    "int4": int4.quantise,
    "int4 asymmetric": lambda w: int4.quantise(w, block=64, symmetric=False),
}


def inputs(dtype: torch.dtype, M: int = 6, N: int = 7, K: int = 64) -> dict[str, Any]:
    torch.manual_seed(0)
    shapes = {"x": (M, K), "a": (4, K), "b": (N, 4)}
    given = {n: torch.randn(s, dtype=dtype, requires_grad=True) for n, s in shapes.items()}
    return given | {"w": torch.randn(N, K)}


@pytest.mark.parametrize("name", STATES)
def test_gradients(name: str) -> None:
    given = inputs(torch.float64)
    state = STATES[name](given.pop("w"))

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return qlora_linear(tensors[0], state, None, *tensors[1:], 1.5)

    assert torch.autograd.gradcheck(call, tuple(given.values()))


@pytest.mark.parametrize("name", STATES)
def test_fused_split_and_cpu_agree(name: str) -> None:
    given = inputs(torch.float32, M=33, N=20, K=128)
    x, a, b = (given[n].detach() for n in "xab")
    fused = Weight.of(STATES[name](given["w"]))
    split = Weight.of(fused.dense(torch.float32))
    dy, rest = torch.randn(33, 20), (1.5, 0.0, 0)
    results = []
    for forward, backward, w in (
        (launch_forward, launch_backward, fused),
        (launch_forward, launch_backward, split),
        (lora.cpu_forward, lora.cpu_backward, fused),
    ):
        y, h = forward(x, w, None, a, b, None, *rest)
        results.append((y, *backward(dy, x, w, None, a, b, None, h, None, *rest)[:3]))
    # sums of up to 128 products of size 10 in another order: 128 · 10 · 2⁻²⁴ · 2
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=2e-4)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=2e-4)


def test_operator_is_sound() -> None:
    given = inputs(torch.float32)
    w = Weight.of(nf4.quantise(given["w"]))
    args = (given["x"], w.data, w.state, w.format, w.block, None, given["a"], given["b"])
    torch.library.opcheck(lora.lora_op, (*args, None, 1.5, 0.0, 0))


def test_no_more_than_one_layers_weights_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers, forward and backward: of dequantised weights one is alive at a time."""
    made: list[Any] = []
    most = []
    stock = nf4.dequantise_op

    def dequantise(*args: Any) -> torch.Tensor:
        out = stock(*args)
        made.append(weakref.ref(out))
        most.append(sum(ref() is not None for ref in made))
        return out

    monkeypatch.setattr(nf4, "dequantise_op", dequantise)
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
    for target in roofline.DEVICES:
        chosen = [roofline.fused(M, 4096, 4096, "nf4", target) for M in (1, 64, 128, 1 << 17)]
        assert chosen == [True, True, True, False]
        # int4 is quicker to dequantise: an MI300X does it in step with its matrix units
        assert roofline.fused(1 << 17, 4096, 4096, "int4", target) == (target == "gfx942")
        crossings = [roofline.fused(M, 4096, 4096, "nf4", target) for M in range(128, 65536, 128)]
        assert sorted(crossings, reverse=True) == crossings  # it changes its mind once
    d = roofline.DEVICES["sm_90"]
    M, N, K = 8192, 4096, 4096
    inside = 64 * N * K * roofline.OPS["nf4"] / d.vector
    before = 2 * M * N * K / d.flops + (2 + 4.13 / 8) * N * K / d.bandwidth + roofline.LAUNCH
    assert inside > before and not roofline.fused(M, N, K, "nf4", "sm_90")


def test_settle_makes_the_copy_where_the_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    w = Weight.of(nf4.quantise(torch.randn(512, 512)))
    monkeypatch.setattr(roofline.spec, "target", lambda: "sm_90")
    assert roofline.settle(w, torch.empty(8, 512)) is w
    copy = roofline.settle(w, torch.empty(1 << 20, 512, dtype=torch.bfloat16, device="meta"))
    assert copy.format == "dense" and copy.data.dtype == torch.bfloat16
    torch.testing.assert_close(copy.data, w.dense(torch.bfloat16))


def test_blocks_that_straddle_rows_are_multiplied_from_a_copy() -> None:
    """Three rows of 96 in NF4 blocks of 64, and the row norm of them from the bytes."""
    given = inputs(torch.float32, N=3, K=96)
    state = nf4.quantise(given["w"])
    copy = roofline.settle(Weight.of(state), given["x"])
    assert copy.format == "dense" and torch.equal(copy.data, state.dequantise())
    a, b = given["a"].detach(), given["b"].detach()
    norm = (copy.data + 1.5 * b @ a).norm(dim=1)
    torch.testing.assert_close(dora.launch_row_norm(Weight.of(state), a, b, 1.5), norm)
    with pytest.raises(ValueError, match="blocks of 64 straddle the rows of a weight of shape"):
        Weight.of(state).constants()


def test_bad_input_is_refused() -> None:
    given = inputs(torch.float32)
    state = nf4.quantise(torch.randn(8, 64))
    with pytest.raises(ValueError, match=r"state holds a weight of shape \(8, 64\), but b"):
        qlora_linear(given["x"], state, None, given["a"], given["b"], 1.0)
    with pytest.raises(ValueError, match="rank of a"):
        qlora_linear(given["x"], state, None, torch.zeros(0, 64), torch.zeros(8, 0), 1.0)
