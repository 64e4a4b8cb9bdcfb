"""What the operators that work along rows share: norm, rope, swiglu and loss.

Not covered: kernels of quantised weights, which check their own state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

# An operator with one implementation each for CPU and GPU, chosen by its tensors' device.
operator: Callable[[str], Callable[[Any], Any]] = partial(
    torch.library.custom_op, mutates_args=(), device_types=("cpu", "cuda")
)


def rows(x: Tensor) -> Tensor:
    """[..., N] as [rows, N], N contiguous: a view wherever the leading dimensions can be one."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def dense(x: Tensor) -> Tensor:
    """A gradient may come expanded from a sum; the last dimension is then not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def check(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all are floating-point [..., N > 0], N contiguous, on one device."""
    first = ""
    for name, x in tensors.items():
        if x is None:
            continue
        if x.dim() == 0 or x.shape[-1] == 0 or not x.is_floating_point():
            raise ValueError(
                f"{name} is a {x.dtype} tensor of shape {tuple(x.shape)}: a floating-point tensor "
                "[..., N] with N > 0 is needed"
            )
        if x.shape[-1] > 1 and x.stride(-1) != 1:
            raise ValueError(
                f"{name} has strides {x.stride()}: its last dimension must be contiguous; call "
                f"{name}.contiguous() first"
            )
        first = first or name
        other = tensors[first]
        if other is not None and x.device != other.device:
            raise ValueError(
                f"{name} is on {x.device} and {first} on {other.device}: move {name} there first"
            )


def agree(*names: str, **tensors: Tensor) -> None:
    """Raise ValueError unless the tensors' attributes `names` are equal."""
    (name, x), *others = tensors.items()
    for what in names:
        for other, y in others:
            if getattr(x, what) != getattr(y, what):
                raise ValueError(
                    f"{name} has {what} {getattr(x, what)} and {other} has {getattr(y, what)}: "
                    f"they must agree; change one of them first"
                )
