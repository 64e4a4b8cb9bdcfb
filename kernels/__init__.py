"""Kernels for tuning on a frozen base: LoRA, QLoRA, DoRA, their quantisers, loss and block parts.

`ops/<op>/` holds one operator: the formula, the Triton kernels, the plain torch that runs on the
CPU, the operator that torch sees (`torch.ops.trivet.*`) and the case that it is verified by. Read
ops/lora first. `patch(model)` puts all of it under a stock PEFT model. `hardware` knows GPUs and
CPUs; `verify` shows what can be known of the kernels without a GPU, and measures where there is
one.

Only this folder knows Triton, and it knows nothing of the rest of Trivet.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.kernels.peft.patch import patch as patch
    from trivet.kernels.peft.patch import unpatch as unpatch


def __getattr__(name: str) -> Any:
    """`patch` and `unpatch`, when asked for: they import PEFT and transformers."""
    if name in ("patch", "unpatch"):
        from trivet.kernels.peft import patch as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
