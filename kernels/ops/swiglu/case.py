"""What SwiGLU is verified by: eager's values and gradients, in float64."""

import torch
from torch import Tensor

from trivet.kernels.ops import kernel
from trivet.kernels.ops.swiglu.formula import eager, halves
from trivet.kernels.ops.swiglu.triton import BACKWARD, FORWARD, launch_backward, launch_forward
from trivet.kernels.verify.cases import Case, Dims, Op, Tensors


def case(dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    """y, dg and du at random g, u and dy, the halves of one tensor as Phi-3 has them."""
    random = torch.Generator().manual_seed(seed)
    M, N = dims["rows"], dims["N"]
    gate_up = (2 * torch.randn(M, 2 * N, generator=random)).to(kernel.device(), dtype)
    dy = torch.randn(M, N, generator=random).to(kernel.device(), dtype)

    def ours() -> Tensors:
        dgate_up = torch.empty_like(gate_up)
        y = launch_forward(*halves(gate_up))
        launch_backward(dy, *halves(gate_up), *halves(dgate_up))
        return y, dgate_up

    def plain(x: Tensor) -> Tensors:
        x = x.clone().requires_grad_()
        y = eager(x)
        return y.detach(), torch.autograd.grad(y, x, dy.to(x.dtype))[0]

    return Case(ours, lambda: plain(gate_up), lambda: plain(gate_up.double()))


OPS = [
    Op(
        "swiglu",
        (FORWARD, BACKWARD),
        case,
        {"rows": (1, 3, 97), "N": (1, 31, 33, 130)},
        launches=2,
    )
]
