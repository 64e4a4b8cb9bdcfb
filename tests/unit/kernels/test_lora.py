"""The LoRA layer: its gradients, its operator, its dropout, its refusals.

That its kernels are right on drawn shapes is in test_kernels.py.
Run: .venv/bin/pytest tests/unit/kernels/test_lora.py
"""

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from trivet.kernels.hardware.gpus import TARGETS
from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.ops.lora import lora_linear
from trivet.kernels.ops.lora.cpu import cpu_backward, cpu_forward
from trivet.kernels.ops.lora.launch import launch_backward, launch_forward, narrow, row_group
from trivet.kernels.ops.lora.op import lora_op
from trivet.kernels.ops.lora.triton import tile_of
from trivet.kernels.ops.philox import uniform
from trivet.kernels.ops.weight import Weight


def inputs(dtype: torch.dtype = torch.float64, **sizes: int) -> dict[str, Any]:
    n = {"M": 6, "N": 7, "K": 5, "R": 4} | sizes
    torch.manual_seed(0)
    return {
        "x": torch.randn(n["M"], n["K"], dtype=dtype, requires_grad=True),
        "weight": torch.randn(n["N"], n["K"], dtype=dtype),
        "bias": torch.randn(n["N"], dtype=dtype, requires_grad=True),
        "a": torch.randn(n["R"], n["K"], dtype=dtype, requires_grad=True),
        "b": torch.randn(n["N"], n["R"], dtype=dtype, requires_grad=True),
        "gain": torch.rand(n["N"], dtype=dtype).add(0.5).requires_grad_(),
    }


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("without", [(), ("bias",), ("gain",), ("bias", "gain")])
def test_gradients(without: tuple[str, ...], dropout: float) -> None:
    layer = inputs() | dict.fromkeys(without)
    names = [k for k, v in layer.items() if v is not None and v.requires_grad]

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        values = layer | dict(zip(names, tensors, strict=True))
        return lora_linear(**values, scale=1.5, dropout=dropout, seed=3)

    assert torch.autograd.gradcheck(call, tuple(layer[k] for k in names))


def test_operator_is_sound() -> None:
    layer = inputs()
    args = (layer["x"], layer["weight"], [], "dense", 0, layer["bias"], layer["a"], layer["b"],
            layer["gain"], 1.5, 0.0, 0)  # fmt: skip
    torch.library.opcheck(lora_op, args)
    assert torch.compile(lora_linear, fullgraph=True, backend="aot_eager")(
        **layer, scale=1.5
    ).shape == (6, 7)
    meta = {k: v.detach().to("meta") for k, v in layer.items()}
    assert lora_linear(**meta, scale=1.0).shape == (6, 7)


def test_dropout_is_the_same_mask_backward() -> None:
    """dx of the adapter's branch is zero exactly where the forward dropped x: kernels and CPU."""
    M, K, p = 40, 50, 0.5
    x, w = torch.randn(M, K), torch.zeros(3, K)
    a, b, dy = torch.rand(4, K) + 1, torch.rand(3, 4) + 1, torch.rand(M, 3) + 1
    dx, *_ = launch_backward(
        dy, x, Weight.of(w), None, a, b, None, torch.zeros(M, 4), None, 1.0, p, 7
    )
    assert torch.equal(dx != 0, uniform(7, M * K).view(M, K) >= p)
    one = torch.eye(4, K)
    _, h = launch_forward(torch.ones(M, K), Weight.of(w), None, one, b, None, 1.0, p, 7)
    assert torch.equal(h != 0, dx[:, :4] != 0) and h.max() == 2

    dx, *_ = cpu_backward(dy, x, Weight.of(w), None, a, b, None, torch.zeros(M, 4), None, 1.0, p, 7)
    _, h = cpu_forward(torch.ones(M, K), Weight.of(w), None, one, b, None, 1.0, p, 7)
    assert torch.equal(h != 0, dx[:, :4] != 0) and 0.4 < (dx == 0).float().mean() < 0.6


@triton.jit
def _order(out, rows, columns, group):
    i, j = tile_of(tl.program_id(0), rows, columns, group)
    tl.store(out + i * columns + j, tl.program_id(0))


def test_each_tile_is_one_programs() -> None:
    """Down the group's rows, then a column on; the last group has what rows are left."""
    orders = []
    for group in (1, 2, 7):
        out = torch.full((5, 3), -1)
        Kernel(_order, {}, {"*": Tile({})}).launch(lambda t: (15,), out, 5, 3, group)
        assert sorted(out.view(-1).tolist()) == list(range(15))
        orders.append(out.tolist())
    assert orders[0] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14]]
    assert orders[1] == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11], [12, 13, 14]]
    assert orders[2] == [[0, 5, 10], [1, 6, 11], [2, 7, 12], [3, 8, 13], [4, 9, 14]]


def test_the_group_is_what_the_l2_can_hold() -> None:
    """In row tiles of 128, 16 bits, on an H100: W stays; x's panels stay; neither can."""
    h100, panel = TARGETS["sm_90"], 128 * 4096 * 2
    assert row_group(panel, 2 * 4096 * 4096, h100) == 1
    assert row_group(panel, 2 * 4096 * 14336, h100) == 33  # 33 MiB of x, 8 columns in a wave
    assert row_group(panel * 14336 // 4096, 2 * 4096 * 14336, h100) == 16  # a wave of 16 by 16


@pytest.mark.parametrize(
    "dtype, rank, dropout, large",
    [
        (torch.bfloat16, 16, 0.0, True),
        (torch.float32, 16, 0.0, False),
        (torch.float16, 17, 0.0, False),
        (torch.bfloat16, 8, 0.1, False),
    ],
)
def test_the_large_tile_is_for_what_fits_it(
    dtype: torch.dtype, rank: int, dropout: float, large: bool
) -> None:
    assert narrow(torch.empty(1, dtype=dtype), rank, dropout) == large


@pytest.mark.parametrize("gain", [False, True])
def test_cpu_and_kernels_agree(gain: bool) -> None:
    layer = inputs(torch.float32, M=33, N=20, K=40) | ({} if gain else {"gain": None})
    x, w, bias, a, b, g = (None if v is None else v.detach() for v in layer.values())
    dy = torch.randn(33, 20)
    y, h = cpu_forward(x, Weight.of(w), bias, a, b, g, 0.7, 0.0, 0)
    y_, h_ = launch_forward(x, Weight.of(w), bias, a, b, g, 0.7, 0.0, 0)
    torch.testing.assert_close((y_, h_), (y, h))
    rest = (dy, x, Weight.of(w), bias, a, b, g, h, y, 0.7, 0.0, 0)
    torch.testing.assert_close(launch_backward(*rest), cpu_backward(*rest))


def test_under_autocast_it_computes_as_torchs_linear() -> None:
    layer = inputs(torch.float32, M=64, N=48, K=96) | {"gain": None}
    with torch.autocast("cpu", torch.bfloat16):
        y = lora_linear(**layer, scale=2.0)
        plain = torch.nn.functional.linear(layer["x"], layer["weight"])
    assert y.dtype == plain.dtype == torch.bfloat16
    y.sum().backward()
    assert layer["a"].grad.dtype == layer["x"].grad.dtype == torch.float32


@pytest.mark.parametrize(
    "change, says",
    [
        ({"a": torch.zeros(0, 5), "b": torch.zeros(7, 0)}, "rank of a .* is 0"),
        ({"a": torch.zeros(300, 5), "b": torch.zeros(7, 300)}, "is 300: give one from 1 to 256"),
        ({"a": torch.zeros(4, 6)}, r"a has shape \(4, 6\), but x"),
        ({"weight": torch.zeros(7, 6)}, r"weight has shape \(7, 6\)"),
        ({"bias": torch.zeros(8)}, r"bias has shape \(8,\)"),
        ({"gain": torch.zeros(1)}, r"gain has shape"),
        ({"x": torch.zeros(6, 5, dtype=torch.int32)}, "x is torch.int32: cast it"),
        ({"b": torch.zeros(7, 4, device="meta")}, "b is on meta, x on cpu"),
        ({"weight": torch.zeros(5, 7).t()}, "weight has stride 7 along its last"),
        ({"a": torch.zeros(4, 10)[:, :5]}, "a and b must be contiguous"),
        ({"weight": torch.zeros(7, 5, requires_grad=True)}, "weight asks for a gradient"),
        ({"dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_bad_input_is_refused_before_a_launch(change: dict[str, Any], says: str) -> None:
    layer = inputs(torch.float32) | {"scale": 1.0} | change
    with pytest.raises(ValueError, match=says):
        lora_linear(**layer)
