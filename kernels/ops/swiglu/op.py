"""SwiGLU's operators, their gradients, and the functions that check what they are given.

formula.py has what is computed, and what is not covered.
"""

from typing import Any

from torch import Tensor

from trivet.kernels.ops.rows import agree, check, operator
from trivet.kernels.ops.swiglu.cpu import cpu_backward, cpu_forward
from trivet.kernels.ops.swiglu.formula import halves
from trivet.kernels.ops.swiglu.triton import launch_backward, launch_forward


def _forward(gate: Tensor, up: Tensor) -> Tensor:
    return (launch_forward if gate.is_cuda else cpu_forward)(gate, up)


def _backward(dy: Tensor, gate: Tensor, up: Tensor, dgate: Tensor, dup: Tensor) -> None:
    (launch_backward if gate.is_cuda else cpu_backward)(dy, gate, up, dgate, dup)


@operator("trivet::swiglu")
def swiglu_op(gate: Tensor, up: Tensor) -> Tensor:
    return _forward(gate, up)


@operator("trivet::swiglu_backward")
def swiglu_backward_op(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = gate.new_empty(gate.shape), gate.new_empty(gate.shape)
    _backward(dy, gate, up, dgate, dup)
    return dgate, dup


@operator("trivet::swiglu_fused")
def swiglu_fused_op(gate_up: Tensor) -> Tensor:
    return _forward(*halves(gate_up))


@operator("trivet::swiglu_fused_backward")
def swiglu_fused_backward_op(dy: Tensor, gate_up: Tensor) -> Tensor:
    dgate_up = gate_up.new_empty(gate_up.shape)
    _backward(dy, *halves(gate_up), *halves(dgate_up))
    return dgate_up


swiglu_op.register_fake(lambda gate, up: gate.new_empty(gate.shape))
swiglu_backward_op.register_fake(
    lambda dy, gate, up: (gate.new_empty(gate.shape), gate.new_empty(gate.shape))
)
swiglu_fused_op.register_fake(lambda x: x.new_empty(*x.shape[:-1], x.shape[-1] // 2))
swiglu_fused_backward_op.register_fake(lambda dy, x: x.new_empty(x.shape))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


swiglu_op.register_autograd(
    lambda ctx, dy: swiglu_backward_op(dy, *ctx.saved_tensors), setup_context=_save
)
swiglu_fused_op.register_autograd(
    lambda ctx, dy: swiglu_fused_backward_op(dy, *ctx.saved_tensors), setup_context=_save
)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ∘ up, [..., N], contiguous, of the same dtype.

    Raises ValueError when the two differ in shape, dtype or device, or their last dimension is
    missing or not contiguous.
    """
    check(gate=gate, up=up)
    agree("shape", "dtype", gate=gate, up=up)
    return swiglu_op(gate, up)


def swiglu_fused(gate_up: Tensor) -> Tensor:
    """silu(g) ∘ u of the halves g, u of `gate_up` [..., 2N]; its gradient is one such tensor.

    Raises ValueError when the last dimension is missing, odd or not contiguous.
    """
    check(gate_up=gate_up)
    if gate_up.shape[-1] % 2:
        raise ValueError(
            f"gate_up has shape {tuple(gate_up.shape)}: its last dimension holds the gate's and "
            "the up projection's columns, so it is even"
        )
    return swiglu_fused_op(gate_up)
