"""INT8: bitsandbytes is the oracle by row, ONNX Runtime's 8-bit quantiser in blocks.

Run: .venv/bin/pytest tests/unit/kernels/test_int8.py
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from quantiser_oracles import INT8_KINDS, check_int8_blocks, check_int8_rows, int8_weight

from trivet.kernels.ops import int8
from trivet.kernels.ops.int8.op import dequantise_op, quantise_op
from trivet.kernels.verify.interpreter import Checker, observe_accesses


@pytest.fixture(autouse=True)
def check_launches():
    with observe_accesses(Checker()):
        yield


@pytest.mark.parametrize("kind", INT8_KINDS)
def test_bytes_are_those_of_others(kind: str) -> None:
    """All blocks and shapes are in tests/compile/test_quantiser_sweep.py."""
    check_int8_rows(kind, 300, torch.float32)
    check_int8_blocks(kind, 32, 33, torch.float16)


@pytest.mark.parametrize("block", int8.BLOCKS)
def test_matmulnbits_multiplies_our_bytes_as_we_do(block: int) -> None:
    s = int8.quantise(int8_weight("normal", 100), block)
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
    with pytest.raises(ValueError) as refusal:
        int8.Int8(*state)
    assert says in str(refusal.value)


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
    with pytest.raises(ValueError) as refusal:
        int8.quantise(w, block)
    assert says in str(refusal.value)
    with pytest.raises(ValueError, match="dtype is torch.int8"):
        int8.quantise(torch.ones(4, 4)).dequantise(torch.int8)
    with pytest.raises(ValueError, match="takes blocks"):
        int8.quantise(torch.ones(4, 4)).matmul_nbits()


@pytest.mark.parametrize("block", [0, 32])
def test_operators_are_sound(block: int) -> None:
    w = int8_weight("normal", 33, torch.float16)
    s = int8.quantise(w, block)
    torch.library.opcheck(quantise_op, (w, block))
    torch.library.opcheck(dequantise_op, (s.values, s.scales, block, torch.bfloat16))
    assert int8.quantise(w.to("meta"), block).dequantise().shape == (3, 33)
