"""The Triton kernel of the cross-entropy (formula.py): a row a program.

Not covered: the two products, which the vendor's library makes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trivet.kernels.ops.kernel import Kernel, Tile


@triton.jit
def cross_entropy_kernel(logits, targets, losses, V, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    """One row: its loss; with GRADIENT the logits become softmax − onehot."""
    row = tl.program_id(0)
    target = tl.load(targets + row)
    logits += row.to(tl.int64) * V
    # read before any store: the reductions below keep the program's threads in step
    aim = tl.load(logits + target).to(tl.float32)
    column = tl.arange(0, BLOCK)
    top = -float("inf")
    accum = 0.0
    for v0 in range(0, V, BLOCK):
        v = v0 + column
        z = tl.load(logits + v, mask=v < V, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(z, 0))
        accum = accum * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
        top = higher
    tl.store(losses + row, tl.log(accum) + (top - aim))
    if GRADIENT:
        for v0 in range(0, V, BLOCK):
            v = v0 + column
            z = tl.load(logits + v, mask=v < V, other=-float("inf")).to(tl.float32)
            g = tl.exp(z - top) / accum - tl.where(v == target, 1.0, 0.0)
            tl.store(logits + v, g.to(logits.dtype.element_ty), mask=v < V)


def launch_losses(logits: Tensor, targets: Tensor, gradient: bool) -> Tensor:
    """The rows' losses; with `gradient` the logits become softmax − onehot. One launch."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    LOSSES.launch(
        lambda t: (len(logits),), logits, targets, losses, logits.shape[1], GRADIENT=gradient
    )
    return losses


LOSSES = Kernel(
    cross_entropy_kernel,
    {"logits": "*bf16", "targets": "*i64", "losses": "*fp32", "V": "i32"},
    {"*": Tile({"BLOCK": 4096}, warps=8), "interpreter": Tile({"BLOCK": 128})},
    ({"GRADIENT": True}, {"GRADIENT": False}),
)
