"""Activations that are cheaper to make again than to keep.

A norm's result and SwiGLU's are element by element functions of tensors that are saved for backward
anyway. `again(y, make)` notes on y how to make it; `forgetting(x)` then saves that note in x's
place. On SmolLM2-135M this keeps 171 MB fewer for 1,024 tokens in bfloat16, at five small kernels a
layer.

Not covered: anything with a random part, and torch.compile, which decides for itself.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def again(y: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """`y`, with a note that `make()` gives the same values."""
    y.made_by = make  # type: ignore[attr-defined]
    return y


def forgetting(x: Tensor) -> AbstractContextManager[Any]:
    """Within this, an operator that saves `x` for backward saves its note, if it has one."""
    make = getattr(x, "made_by", None)
    if make is None or torch.compiler.is_compiling():
        return nullcontext()
    start = x.data_ptr()

    def pack(saved: Tensor) -> Any:
        same = saved.data_ptr() == start and saved.numel() == x.numel()
        return saved.shape if same else saved

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return make().view(kept)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
