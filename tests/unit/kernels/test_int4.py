"""INT4: ONNX Runtime's quantiser is the oracle of the bytes, its MatMulNBits of what they mean.

Run: .venv/bin/pytest tests/unit/kernels/test_int4.py
"""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import triton
import triton.language as tl
from quantiser_oracles import FLOATS, INT4_KINDS, block_weight, check_int4

from trivet.kernels.ops import int4
from trivet.kernels.ops.int4.formula import plain_quantise
from trivet.kernels.ops.int4.op import dequantise_op, quantise_op
from trivet.kernels.ops.int4.triton import int4_tile, launch_dequantise, launch_quantise
from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.verify.interpreter import Checker, observe_accesses


@pytest.fixture(autouse=True)
def check_launches():
    with observe_accesses(Checker()):
        yield


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", INT4_KINDS)
def test_bytes_are_onnx_runtimes(kind: str, symmetric: bool) -> None:
    """All blocks and shapes are in tests/compile/test_quantiser_sweep.py."""
    for block, K, dtype in ((32, 65, torch.float32), (128, 381, torch.float16)):
        check_int4(kind, block, symmetric, K, dtype)


def test_bfloat16_is_quantised_as_float32() -> None:
    w = block_weight("normal", 100, torch.bfloat16)
    for quantise in (plain_quantise, launch_quantise):
        for ours, wide in zip(quantise(w, 32, False), quantise(w.float(), 32, False), strict=True):
            assert torch.equal(ours, wide)


@pytest.mark.parametrize("symmetric", [True, False])
def test_dequantised_is_the_formula(symmetric: bool) -> None:
    for K in (33, 300):
        s = int4.quantise(block_weight("normal", K), 64, symmetric)
        for n, k in ((0, 0), (1, 31), (2, K - 1)):
            q = int(s.packed[n].view(-1)[k // 2]) >> (4 * (k % 2)) & 15
            z = 8 if s.zeros is None else int(s.zeros[n, k // 128]) >> (4 * (k // 64 % 2)) & 15
            assert s.dequantise()[n, k] == (q - z) * s.scales[n, k // 64]
        exact = s.dequantise()
        for dtype in FLOATS:
            by_kernel = launch_dequantise(s.packed, s.scales, s.zeros, K, dtype)
            assert torch.equal(s.dequantise(dtype), exact.to(dtype))
            assert torch.equal(by_kernel, exact.to(dtype))


def matmul_nbits(s: int4.Int4, x: torch.Tensor) -> torch.Tensor:
    """x times the weight, as ONNX Runtime multiplies with our bytes."""
    arrays = {"b": s.packed.numpy(), "scales": s.scales.numpy()}
    if s.zeros is not None:
        arrays["zeros"] = s.zeros.numpy()
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.numpy().dtype)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft",
        N=s.shape[0], K=s.shape[1], bits=4, block_size=s.block, accuracy_level=1,
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", kind, list(x.shape))],
        [onnx.helper.make_tensor_value_info("y", kind, [x.shape[0], s.shape[0]])],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", int4.BLOCKS)
@pytest.mark.parametrize("K", [64, 100, 257])
def test_matmulnbits_multiplies_our_bytes_as_we_do(K: int, block: int, symmetric: bool) -> None:
    s = int4.quantise(block_weight("normal", K), block, symmetric)
    x = torch.randn(5, K, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(matmul_nbits(s, x), x @ s.dequantise().T, rtol=1e-5, atol=1e-5)


@triton.jit
def _tile(p, s, z, out, N, K, BLOCK: tl.constexpr, ASYM: tl.constexpr, S: tl.constexpr):
    n, k0 = tl.arange(0, 4)[:, None], tl.program_id(0) * S
    w = int4_tile(p, s, z, n, k0, N, K, BLOCK, ASYM, S)
    tl.store(out + n * (tl.num_programs(0) * S) + k0 + tl.arange(0, S)[None, :], w)


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tile_is_the_dequantised_weight(dtype: torch.dtype, symmetric: bool, width: int) -> None:
    """Tiles narrower and wider than a block, and beyond the last row and column."""
    s = int4.quantise(block_weight("normal", 101, dtype)[:2], 32, symmetric)
    out = torch.empty(4, 128)
    kernel = Kernel(_tile, {}, {"*": Tile({"S": width})})
    zeros = s.packed if s.zeros is None else s.zeros
    kernel.launch(
        lambda t: (128 // width,), s.packed, s.scales, zeros, out, 2, 101,
        BLOCK=32, ASYM=not symmetric,
    )  # fmt: skip
    expected = torch.zeros(4, 128)
    expected[:2, :101] = s.dequantise()
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    "damage, says",
    [
        ({"packed": torch.zeros(3, 3, 16, dtype=torch.uint8)}, "packed is torch.uint8 (3, 3, 16)"),
        ({"packed": torch.zeros(3, 4, 16, dtype=torch.int8)}, "packed is torch.int8"),
        ({"scales": torch.zeros(3, 5)}, "scales is torch.float32 (3, 5)"),
        ({"scales": torch.zeros(3, 4, dtype=torch.bfloat16)}, "scales is torch.bfloat16"),
        ({"scales": torch.full((3, 4), float("nan"))}, "scales holds infinities"),
        ({"scales": torch.zeros(4, 3).T}, "scales must be contiguous"),
        ({"zeros": torch.zeros(3, 4, dtype=torch.uint8)}, "zeros is torch.uint8 (3, 4)"),
        ({"zeros": torch.zeros(3, 2, dtype=torch.uint8, device="meta")}, "zeros must be"),
        ({"shape": (3, 129)}, "packed is torch.uint8"),
        ({"shape": (0, 100)}, "shape is (0, 100)"),
        ({"block": 16}, "block = 16"),
    ],
)
def test_a_damaged_state_is_refused(damage: dict[str, Any], says: str) -> None:
    good = int4.quantise(block_weight("normal", 100), 32, symmetric=False)
    with pytest.raises(ValueError) as refusal:
        replace(good, **damage)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "w, block, says",
    [
        (torch.ones(4), 32, "w has shape (4,)"),
        (torch.ones(4, 0), 32, "w has shape (4, 0)"),
        (torch.ones(4, 4, dtype=torch.float64), 32, "w is torch.float64"),
        (torch.tensor([[1.0, float("inf")]]), 32, "w holds infinities"),
        (torch.tensor([[1.0, float("nan")]]), 32, "w holds infinities"),
        (torch.ones(4, 4), 16, "block = 16"),
    ],
)
def test_what_cannot_be_quantised_is_refused(w: torch.Tensor, block: int, says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        int4.quantise(w, block)
    assert says in str(refusal.value)
    with pytest.raises(ValueError, match="dtype is torch.int8"):
        int4.quantise(torch.ones(4, 4)).dequantise(torch.int8)


@pytest.mark.parametrize("symmetric", [True, False])
def test_operators_are_sound(symmetric: bool) -> None:
    w = block_weight("normal", 33, torch.float16)
    s = int4.quantise(w, 32, symmetric)
    torch.library.opcheck(quantise_op, (w, 32, symmetric))
    state = (s.packed, s.scales, s.zeros, 33, torch.bfloat16)
    torch.library.opcheck(dequantise_op, state)
    assert int4.quantise(w.to("meta"), 32, symmetric).dequantise().shape == (3, 33)
