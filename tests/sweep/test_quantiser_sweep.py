"""Every kind of weight, block and shape against other libraries' bytes; the unit tier has a few.
Run: .venv/bin/pytest tests/compile/test_quantiser_sweep.py
"""

import pytest
import torch
from quantiser_oracles import (
    FLOATS,
    INT4_KINDS,
    INT8_KINDS,
    NF4_KINDS,
    check_int4,
    check_int8_blocks,
    check_int8_rows,
    check_nf4,
)

from trivet.kernels.ops.blocks import BLOCKS
from trivet.kernels.verify.interpreter import Checker, observe_accesses


@pytest.fixture(autouse=True)
def surroundings():
    """Launches are checked; bitsandbytes does not compile its fallback for odd shapes."""
    with torch.compiler.set_stance("force_eager"), observe_accesses(Checker()):
        yield


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", INT4_KINDS)
def test_int4_is_onnx_runtimes(kind: str, block: int, symmetric: bool) -> None:
    """Odd K too: one more than a block, than two blocks, and otherwise."""
    for K in (1, 2, 31, block, block + 1, 2 * block + 1, 3 * block - 3, 300):
        for dtype in FLOATS[:2]:
            check_int4(kind, block, symmetric, K, dtype)


@pytest.mark.parametrize("kind", INT8_KINDS)
def test_int8_by_row_is_bitsandbytes(kind: str) -> None:
    for K in (1, 31, 300, 700):
        for dtype in FLOATS:
            check_int8_rows(kind, K, dtype)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", INT8_KINDS)
def test_int8_in_blocks_is_onnx_runtimes(kind: str, block: int) -> None:
    for K in (1, block, block + 1, 300):
        for dtype in FLOATS[:2]:
            check_int8_blocks(kind, block, K, dtype)


@pytest.mark.parametrize(
    "block, double", [(32, False), (64, False), (64, True), (128, True), (4096, True)]
)
@pytest.mark.parametrize("kind", NF4_KINDS)
def test_nf4_is_bitsandbytes(kind: str, block: int, double: bool) -> None:
    for shape in ((1, 1), (3, 33), (5, 300), (40, 512)):
        for dtype in FLOATS if shape == (5, 300) else FLOATS[:1]:
            check_nf4(kind, block, double, shape, dtype)
