"""Every operator's promises (tests/operator_promises.py) on ten draws each.
Run: .venv/bin/pytest tests/compile/test_operator_sweep.py
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_promises import OPS, check_operator


@pytest.fixture(autouse=True)
def poison():
    """Uninitialised memory holds NaN (or the largest integer)."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_an_operator_keeps_its_promises(name: str, data: st.DataObject) -> None:
    op = OPS[name]
    dims = {key: data.draw(st.sampled_from(sizes), key) for key, sizes in op.dims.items()}
    check_operator(op, dims, data.draw(st.sampled_from(op.dtypes), "dtype"))
