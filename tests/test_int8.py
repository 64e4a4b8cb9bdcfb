"""INT8: bitsandbytes is the oracle by row, ONNX Runtime's 8-bit quantiser in blocks.

Run: .venv/bin/pytest tests/test_int8.py
"""

from typing import Any

import bitsandbytes.functional as by_row
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)
from trivet.kernels.interpreter import Checker, watching

from trivet.kernels import int8

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
KINDS = ("normal", "one sign", "zeros", "minus zeros", "denormal", "ties", "large")


@pytest.fixture(autouse=True)
def watched():
    with watching(Checker()):
        yield


def weight(kind: str, K: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    w = torch.randn(3, K, generator=torch.Generator().manual_seed(K))
    if kind == "one sign":
        w = w.sign()[:, :1] * (w.abs() + 0.5)
    elif kind == "zeros":
        w[:, K // 3 :] = 0
    elif kind == "minus zeros":
        w = torch.where(w > 0, 0.0, -0.0)
    elif kind == "denormal":
        w = w.sign() * torch.logspace(-44, -36, 3)[:, None].expand(3, K)
    elif kind == "ties":
        w = torch.cat([(w * 9).round() / 2, torch.full((3, 1), 63.5)], 1)[:, -K:]
    elif kind == "large":
        w *= 1e4 if dtype == torch.float16 else 3e37
    return w.to(dtype).contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_by_row_the_bytes_are_bitsandbytes(kind: str) -> None:
    for K in (1, 31, 300, 700):
        for dtype in FLOATS:
            w = weight(kind, K, dtype)
            values, scales, _ = by_row.int8_vectorwise_quant(w.clone())
            for ours in (int8.plain_quantise(w, 0), int8.launch_quantise(w, 0)):
                assert torch.equal(ours[0], values)
                assert torch.equal(ours[1], scales)
            wanted = by_row.int8_vectorwise_dequant(values, scales)
            for out in FLOATS:
                assert torch.equal(int8.quantise(w).dequantise(out), wanted.to(out))
                by_kernel = int8.launch_dequantise(values, scales, 0, out)
                assert torch.equal(by_kernel, wanted.to(out))


@pytest.mark.parametrize("block", int8.BLOCKS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_blocks_the_bytes_are_onnx_runtimes(kind: str, block: int) -> None:
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, bits=8)
    for K in (1, block, block + 1, 300):
        for dtype in FLOATS[:2]:
            w = weight(kind, K, dtype)
            made = DefaultWeightOnlyQuantizer(config).qbits_block_quant(w.T.contiguous().numpy())
            packed, scales, _ = (torch.from_numpy(a) for a in made)
            for ours in (int8.plain_quantise(w, block), int8.launch_quantise(w, block)):
                assert torch.equal(int8.Int8(*ours, block).matmul_nbits(), packed)
                assert torch.equal(ours[1].view(torch.uint8), scales.view(torch.uint8))
            exact = ours[0].float() * scales.float().repeat_interleave(block, 1)[:, :K]
            for out in FLOATS:
                assert torch.equal(int8.quantise(w, block).dequantise(out), exact.to(out))
                assert torch.equal(int8.launch_dequantise(*ours, block, out), exact.to(out))


@pytest.mark.parametrize("block", int8.BLOCKS)
def test_matmulnbits_multiplies_our_bytes_as_we_do(block: int) -> None:
    s = int8.quantise(weight("normal", 100), block)
    x = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "b", "scales"], ["y"], domain="com.microsoft",
        N=3, K=100, bits=8, block_size=block, accuracy_level=1,
    )  # fmt: skip
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", float32, [5, 100])],
        [onnx.helper.make_tensor_value_info("y", float32, [5, 3])],
        [onnx.numpy_helper.from_array(s.matmul_nbits().numpy(), "b"),
         onnx.numpy_helper.from_array(s.scales.numpy(), "scales")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y = torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))
    torch.testing.assert_close(y, x @ s.dequantise().T, rtol=1e-5, atol=1e-5)


GOOD = (torch.zeros(3, 100, dtype=torch.int8), torch.zeros(3), 0)


@pytest.mark.parametrize(
    "at, damage, says",
    [
        (0, torch.zeros(3, 100, dtype=torch.uint8), "values is torch.uint8"),
        (0, torch.zeros(100, dtype=torch.int8), "values has shape (100,)"),
        (0, torch.zeros(100, 3, dtype=torch.int8).T, "values must be contiguous"),
        (0, torch.zeros(4, 100, dtype=torch.int8), "scales is torch.float32 (3,)"),
        (1, torch.zeros(3, 1), "scales is torch.float32 (3, 1)"),
        (1, torch.zeros(3, dtype=torch.float16), "scales is torch.float16"),
        (1, torch.full((3,), float("inf")), "scales holds infinities"),
        (1, torch.zeros(3, device="meta"), "scales must be contiguous and on cpu"),
        (2, 32, "scales is torch.float32 (3,)"),
        (2, 16, "block = 16"),
    ],
)
def test_a_damaged_state_is_refused(at: int, damage: Any, says: str) -> None:
    state = list(GOOD)
    state[at] = damage
    with pytest.raises(ValueError) as refused:
        int8.Int8(*state)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "w, block, says",
    [
        (torch.ones(4), 0, "w has shape (4,)"),
        (torch.ones(4, 4, dtype=torch.float64), 0, "w is torch.float64"),
        (torch.tensor([[1.0, float("nan")]]), 0, "w holds infinities"),
        (torch.ones(4, 4), 16, "block = 16"),
    ],
)
def test_what_cannot_be_quantised_is_refused(w: torch.Tensor, block: int, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        int8.quantise(w, block)
    assert says in str(refused.value)
    with pytest.raises(ValueError, match="dtype is torch.int8"):
        int8.quantise(torch.ones(4, 4)).dequantise(torch.int8)
    with pytest.raises(ValueError, match="takes blocks"):
        int8.quantise(torch.ones(4, 4)).matmul_nbits()


@pytest.mark.parametrize("block", [0, 32])
def test_operators_are_sound(block: int) -> None:
    w = weight("normal", 33, torch.float16)
    s = int8.quantise(w, block)
    torch.library.opcheck(int8.quantise_op, (w, block))
    torch.library.opcheck(int8.dequantise_op, (s.values, s.scales, block, torch.bfloat16))
    assert int8.quantise(w.to("meta"), block).dequantise().shape == (3, 33)
