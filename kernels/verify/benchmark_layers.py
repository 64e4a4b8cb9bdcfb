"""The layers that benchmark.py times: ours, and those of libraries that may be installed.

Each function takes a `Shape` and a device and gives one forward and backward on random input, to be
called again and again. It raises ImportError when its library is not there.

Not covered: the optimiser, and dropout.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivet.kernels.ops import nf4
from trivet.kernels.ops.lora import lora_linear
from trivet.kernels.ops.norm import rms_norm
from trivet.kernels.ops.qlora import qlora_linear
from trivet.kernels.ops.swiglu import swiglu
from trivet.kernels.verify import baselines
from trivet.kernels.verify.baselines import Shape

Step = Callable[[], Any]


def _training(layer: Callable[[Tensor], Tensor], at: Shape, device: str, *leaves: Tensor) -> Step:
    """One forward and backward on random input."""
    x, dy = _normal(device, at.M, at.K).requires_grad_(), _normal(device, at.M, at.N)
    return lambda: torch.autograd.grad(layer(x), [x, *leaves], dy)


def _normal(device: str, *sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*sizes, device=device, dtype=dtype)


def _adapters(at: Shape, device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a, b = (_normal(device, *s, dtype=dtype) for s in ((at.R, at.K), (at.N, at.R)))
    return a.requires_grad_(), b.requires_grad_()


def ours(at: Shape, device: str) -> Step:
    w, (a, b) = _normal(device, at.N, at.K), _adapters(at, device)
    return _training(lambda x: lora_linear(x, w, None, a, b, 2.0), at, device, a, b)


def ours_quantised(at: Shape, device: str) -> Step:
    state, (a, b) = nf4.quantise(_normal(device, at.N, at.K)), _adapters(at, device)
    return _training(lambda x: qlora_linear(x, state, None, a, b, 2.0), at, device, a, b)


def peft(at: Shape, device: str) -> Step:
    layer = baselines.peft_layer(at, torch.float32, 0.0, device)
    return _training(layer, at, device, *(p for p in layer.parameters() if p.requires_grad))


def bitsandbytes(at: Shape, device: str) -> Step:
    """A 4-bit base with double quantisation under a PEFT-like adapter."""
    import bitsandbytes as bnb

    base = bnb.nn.Linear4bit(
        at.K, at.N, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    ).to(device)
    a, b = _adapters(at, device)

    def layer(x: Tensor) -> Tensor:
        return base(x) + ((x.float() @ a.T @ b.T) * 2.0).to(x.dtype)

    return _training(layer, at, device, a, b)


def unsloth(at: Shape, device: str) -> Step:
    from unsloth.kernels.fast_lora import LoRA_W

    w, (a, b) = _normal(device, at.N, at.K), _adapters(at, device, torch.bfloat16)
    return _training(lambda x: LoRA_W.apply(x[None], w, None, a, b, 2.0)[0], at, device, a, b)


def _block(at: Shape, device: str, count: int, block: Callable[..., Any]) -> Step:
    """Forward and backward of a block part on `count` inputs [M, N]."""
    inputs = [_normal(device, at.M, at.N).requires_grad_() for _ in range(count)]
    dy = _normal(device, at.M, at.N)
    return lambda: torch.autograd.grad(block(*inputs), inputs, dy)


def ours_norm(at: Shape, device: str) -> Step:
    weight = _normal(device, at.N)
    return _block(at, device, 1, lambda x: rms_norm(x, weight, 1e-6))


def liger_norm(at: Shape, device: str) -> Step:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    weight = _normal(device, at.N)
    return _block(at, device, 1, lambda x: LigerRMSNormFunction.apply(x, weight, 1e-6))


def liger_swiglu(at: Shape, device: str) -> Step:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return _block(at, device, 2, LigerSiLUMulFunction.apply)


LAYERS: dict[str, Callable[[Shape, str], Step]] = {
    "ours": ours,
    "PEFT": peft,
    "unsloth": unsloth,
    "ours, NF4": ours_quantised,
    "bitsandbytes": bitsandbytes,
}
BLOCKS: dict[str, Callable[[Shape, str], Step]] = {
    "ours, RMS norm of N": ours_norm,
    "Liger, RMS norm of N": liger_norm,
    "ours, SwiGLU of N": lambda at, device: _block(at, device, 2, swiglu),
    "Liger, SwiGLU of N": liger_swiglu,
}
