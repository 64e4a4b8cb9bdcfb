"""A forward in the place of a module's own: one attribute of the module, marked as ours.

The module, its weights and its names stay what they were, so PEFT saves, loads and merges the
adapter as ever, and without the attribute the module is stock again.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

Forward = Callable[..., Any]


def put(module: nn.Module, forward: Forward) -> None:
    """`forward` in place of the module's own, with its signature."""

    @functools.wraps(module.forward)
    def ours(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    cast(Any, ours).trivet = True
    module.__dict__["forward"] = ours


def take_out(module: nn.Module) -> None:
    """The module's own forward again, where `put` has put another."""
    if getattr(module.__dict__.get("forward"), "trivet", False):
        del module.__dict__["forward"]


@contextmanager
def on_kernels(module: nn.Module, forward: Forward) -> Iterator[None]:
    put(module, forward)
    try:
        yield
    finally:
        take_out(module)
