"""What an operator's folder says of it for verification, so that no other list need be kept.

Each folder of ops/ has a `case` module: its `OPS` are what the tests draw shapes for and compare
with float64, what the compile matrix compiles for each target, whose bytes the traffic model
counts, and what the tables print. Adding an operator is adding a folder.

Not covered: what a case does not draw. The sizes are the operator's own choice: odd, one, below and
above a tile.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

import trivet.kernels.ops
from trivet.kernels.ops.kernel import Kernel

Tensors = tuple[torch.Tensor, ...]
Dims = Mapping[str, int]


@dataclass(frozen=True)
class Case:
    """One call, three ways, on the same inputs; each gives the same tensors in the same order.

    `ours`: launches the Triton kernels, forward and backward. `eager`: plain torch at the inputs'
    dtype, as one writes it without this package. `truth`: the formula in float64.
    """

    ours: Callable[[], Tensors]
    eager: Callable[[], Tensors]
    truth: Callable[[], Tensors]


@dataclass(frozen=True)
class Op:
    """`case(dims, dtype, seed)` draws inputs of the sizes `dims` on the CPU.

    `dims`: for each name the sizes that tests draw from: odd, one, below and above a tile.
    `launches`: of one `ours()`. `error`: at most this many times eager's error. An op whose outputs
    are promised byte-equal has `error=0` and is compared with `eager`.
    """

    name: str
    kernels: tuple[Kernel, ...]
    case: Callable[[Dims, torch.dtype, int], Case]
    dims: Mapping[str, tuple[int, ...]]
    launches: int
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    error: float = 2.0


def ops() -> list[Op]:
    """The operators of every folder of ops/ that has a case, in the folders' order."""
    operators: list[Op] = []
    for folder in pkgutil.iter_modules(trivet.kernels.ops.__path__):
        if folder.ispkg:
            case = f"{trivet.kernels.ops.__name__}.{folder.name}.case"
            operators += importlib.import_module(case).OPS
    return operators


def error_ratio(op: Op, dims: Dims, dtype: torch.dtype, seed: int = 0) -> float:
    """‖ours − truth‖ / ‖eager − truth‖, the worst of the op's outputs; at most `op.error` is asked.

    Both norms run over several draws until each output has 256 elements (at most 32 draws): the
    ratio of two single rounding errors says nothing. What counts for eager is at least the error of
    rounding the truth to `dtype`, and a quarter of the unit roundoff: nobody does better than that.

    Of an op whose bytes are promised: 0 when it keeps the promise, else infinity.
    """
    if op.error == 0:
        case = op.case(dims, dtype, seed)
        return 0.0 if all(map(torch.equal, case.ours(), case.eager())) else float("inf")
    squares: list[list[float]] = []
    for draw in range(32):
        case = op.case(dims, dtype, seed * 32 + draw)
        rows = list(zip(case.ours(), case.eager(), case.truth(), strict=True))
        squares.append([x for row in rows for x in _squares(*row, dtype)])
        if (draw + 1) * min(truth.numel() for _, _, truth in rows) >= 256:
            break
    sums = [sum(column) for column in zip(*squares, strict=True)]
    return max((ours / eager) ** 0.5 for ours, eager in zip(sums[::2], sums[1::2], strict=True))


def _squares(
    ours: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    def square(tensor: torch.Tensor) -> float:
        return float((tensor.double() - truth).square().sum())

    least = (torch.finfo(dtype).eps / 8) ** 2 * float(truth.square().sum())
    return square(ours), max(square(eager), square(truth.to(dtype)), least, 1e-300)
