"""QLoRA's linear layer: LoRA on a frozen four-bit base (Dettmers et al. 2023, arXiv 2305.14314).

    y = x dequant(W)ᵀ + s·(x Aᵀ) Bᵀ + bias            formulas and gradients: ops/lora

W is NF4 (ops/nf4) or int4 (ops/int4), and two ways lead through it: fused, where the kernels of
ops/lora/triton.py dequantise each tile of W that they multiply, in the same launch, forward and
backward; and split, where one layer's 16-bit copy is made, multiplied and dropped.
ops/lora/split.py says which is taken on a GPU. On a CPU it is always split. The base keeps its
four bits throughout.

Not covered: a base in int8.
"""

from torch import Tensor

from trivet.kernels.ops.int4 import Int4
from trivet.kernels.ops.lora import lora_linear
from trivet.kernels.ops.nf4 import NF4
from trivet.kernels.ops.weight import Weight


def qlora_linear(
    x: Tensor,
    state: NF4 | Int4,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
    gain: Tensor | None = None,
) -> Tensor:
    """`lora_linear` on a quantised weight; x [..., K], a [R, K], b [N, R].

    Raises ValueError as `lora_linear` does, and when the state is not for [N, K].
    """
    if tuple(state.shape) != (b.shape[0], a.shape[1]):
        raise ValueError(
            f"state holds a weight of shape {tuple(state.shape)}, but b {tuple(b.shape)} and a "
            f"{tuple(a.shape)} ask for {(b.shape[0], a.shape[1])}"
        )
    return lora_linear(x, Weight.of(state), bias, a, b, scale, dropout, seed, gain)
