"""What the loss is verified by: F.cross_entropy of F.linear, and its gradient in float64."""

import torch

from trivet.kernels.ops import kernel
from trivet.kernels.ops.loss.formula import eager
from trivet.kernels.ops.loss.op import chunked
from trivet.kernels.ops.loss.triton import LOSSES, launch_losses
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """The rows' losses, and hidden's gradient of their mean; every third row has no target."""
    random = torch.Generator().manual_seed(seed)
    rows, D, V = dims["rows"], dims["D"], dims["V"]
    hidden = torch.randn(rows, D, generator=random).to(kernel.device(), dtype)
    head = (torch.randn(V, D, generator=random) / D**0.5 * 2).to(kernel.device(), dtype)
    targets = torch.randint(V, (rows,), generator=random)
    targets[2::3] = -1
    targets = targets.to(kernel.device())

    def ours() -> Tensors:
        return chunked(hidden, head, targets, -1, True, launch_losses)

    def plain(dtype: torch.dtype) -> Tensors:
        h = hidden.to(dtype, copy=True).requires_grad_()
        losses = eager(h, head.to(dtype), targets)
        return losses.detach(), torch.autograd.grad(losses.mean(), h)[0]

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


OPS = [
    Op(
        "linear_cross_entropy",
        (LOSSES,),
        case,
        {"rows": (20, 61), "D": (16, 33), "V": (100, 128, 200)},
        launches=1,
    )
]
