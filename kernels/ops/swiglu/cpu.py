"""SwiGLU on the CPU, by plain torch in place: it rounds as eager does.

Not covered: the GPU's single rounding.
"""

import torch
from torch import Tensor


def cpu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """As `launch_forward`, in plain torch."""
    y = torch.ops.aten.silu.out(gate, out=gate.new_empty(gate.shape))
    return y.mul_(up)


def cpu_backward(dy: Tensor, gate: Tensor, up: Tensor, dgate: Tensor, dup: Tensor) -> None:
    """As `launch_backward`, in plain torch; dup holds dy ∘ u for a moment."""
    torch.mul(dy, up, out=dup)
    torch.ops.aten.silu_backward.grad_input(dup, gate, grad_input=dgate)
    torch.ops.aten.silu.out(gate, out=dup)
    dup.mul_(dy)
