"""QLoRA's linear layer: LoRA on a frozen four-bit base (Dettmers et al. 2023, arXiv 2305.14314).

    y = x dequant(W)ᵀ + s·(x Aᵀ) Bᵀ + bias            formulas and gradients: lora.py

W is NF4 (nf4.py) or int4 (int4.py), and two ways lead through it: fused, where the kernels of
lora_kernels.py dequantise each tile of W that they multiply, in the same launch, forward and
backward; and split, where one layer's 16-bit copy is made, multiplied and dropped. roofline.py says
which is taken on a GPU. On a CPU it is always split. The base keeps its four bits throughout.

Not covered: a base in int8.
"""

from functools import partial

import torch
from torch import Tensor

from . import int4, nf4, reference, spec
from .lora import lora_linear
from .lora_launch import DX, FORWARD, WEIGHTS, launch_backward, launch_forward
from .spec import Case, Dims, Op, Tensors
from .weight import Weight


def qlora_linear(
    x: Tensor,
    state: nf4.NF4 | int4.Int4,
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


def case(format: str, dims: Dims, dtype: torch.dtype, seed: int) -> Case:
    M, N, K, R = (dims[name] for name in "MNKR")
    draw = torch.Generator().manual_seed(seed)
    device = spec.device()

    def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=draw).to(of).to(device)

    x, dy = normal(M, K), normal(M, N)
    a, b = normal(R, K, of=torch.float32) / K**0.5, normal(N, R, of=torch.float32)
    full = normal(N, K, of=torch.float32) / K**0.5
    quantised = nf4.quantise(full) if format == "nf4" else int4.quantise(full, symmetric=False)
    w = Weight.of(quantised)

    def ours() -> Tensors:
        y, h = launch_forward(x, w, None, a, b, None, 1.5, 0.0, 0)
        grads = launch_backward(dy, x, w, None, a, b, None, h, None, 1.5, 0.0, 0)
        return (y, *grads[:3])

    def plain(of: torch.dtype) -> Tensors:
        xs, as_, bs = (t.to(of).requires_grad_() for t in (x, a, b))
        dense = quantised.dequantise(torch.float32).to(dtype).to(of)
        y = reference.lora(xs, dense, None, as_, bs, None, 1.5, None)
        return (y.detach(), *torch.autograd.grad(y, (xs, as_, bs), dy.to(of)))

    return Case(ours, lambda: plain(dtype), lambda: plain(torch.float64))


_K = {"nf4": (64, 128, 192), "int4": (17, 64, 100)}  # NF4 tiles want whole blocks in a row
OPS = [
    Op(
        f"qlora_linear {format}",
        (*(k[format, large] for k in (FORWARD, DX) for large in (True, False)), WEIGHTS),
        partial(case, format),
        dims={"M": (1, 33), "N": (31, 64, 97), "K": _K[format], "R": (4, 40)},
        launches=3,
    )
    for format in ("nf4", "int4")
]
