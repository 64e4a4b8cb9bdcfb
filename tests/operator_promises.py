"""What every operator owes, in the interpreter: in the unit tier at its middle sizes, in the
compile tier's sweep on shapes, dtypes and strides that hypothesis draws.

Its error is at most twice what plain torch makes at the same dtype, against float64; each element
of its outputs is written; it touches nothing outside its tensors and no two programs race; a repeat
is bit-equal; it launches as often as it says.
"""

from typing import Any

import torch

from trivet.kernels.ops.kernel import Kernel
from trivet.kernels.verify import cases
from trivet.kernels.verify.interpreter import Checker, observe_accesses

OPS = {op.name: op for op in cases.ops()}


class Launches(Checker):
    count = 0

    def begin(self, kernel: Kernel, args: tuple[Any, ...]) -> None:
        self.count += 1
        super().begin(kernel, args)


def check_operator(op: cases.Op, dims: cases.Dims, dtype: torch.dtype) -> None:
    """Uninitialised memory must hold NaN (torch.use_deterministic_algorithms)."""
    case = op.case(dims, dtype, 0)
    with observe_accesses(Launches()) as launches:
        first = case.ours()
    assert launches.count == op.launches
    assert all(torch.isfinite(t).all() for t in first if t.is_floating_point())
    for one, two in zip(first, case.ours(), strict=True):
        assert torch.equal(one, two)
    if op.error == 0:
        for ours, theirs in zip(first, case.eager(), strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        assert cases.error_ratio(op, dims, dtype) <= op.error
