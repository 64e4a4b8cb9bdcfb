"""What other ways of running a LoRA layer move through memory, counted on meta tensors.

    bytes = Σ over launches of (the tensors that it reads + the tensors that it writes), each once

A launch is one ATen operator that is no view and no bare allocation. That is the least such a
sequence can move, since tensors of this size do not stay in the L2 from one launch to the next.
`saved` is what autograd keeps for backward besides x and the parameters.

The PEFT layer is PEFT's own. The two-GEMM sequence is the one that hand-written LoRA layers run
(y = x Wᵀ, then y += (x Aᵀ) Bᵀ in place; backward likewise, with dy B made twice). bitsandbytes
writes W in 16 bits before each product with it; its operators are called by their own names.

Not covered: what torch.compile would fuse; workspaces inside cuBLAS; the re-reading of operands by
a GEMM's own tiles, which our own figures do contain: the baselines are flattered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Moves = Callable[[], Any]
NO_LAUNCH = ("empty", "detach", "lift", "_unsafe_view", "alias")


@dataclass(frozen=True)
class Shape:
    """x [M, K], W [N, K], adapters of rank R; activations bfloat16."""

    M: int
    K: int
    N: int
    R: int = 16

    def __str__(self) -> str:
        return f"M={self.M} K={self.K} N={self.N} r={self.R}"

    def meta(self, *sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")


@dataclass
class LayerTraffic:
    """One direction of a layer. `saved`: bytes kept for backward."""

    launches: int = 0
    bytes: int = 0
    saved: int = 0


Directions = tuple[LayerTraffic, LayerTraffic]


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.traffic = LayerTraffic()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not view and not func._schema.name.split("::")[1].startswith(NO_LAUNCH):
            reads = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            if "copy_" in func._schema.name:
                reads = reads[1:]  # what it overwrites
            writes = [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]
            self.traffic.launches += 1
            self.traffic.bytes += sum(map(nbytes, [*{id(t): t for t in reads}.values(), *writes]))
        return outputs


def nbytes(tensor: Tensor) -> int:
    """The bytes of a tensor; what is expanded counts once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def count(moves: Moves, keep: tuple[Tensor, ...] = ()) -> tuple[LayerTraffic, Any]:
    """What `moves` launches and moves, and what it returns. `keep`: not counted when autograd saves
    them, or views of them."""
    uncounted = {t.untyped_storage()._cdata for t in keep}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in uncounted:
            saved[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), _Count() as counter:
        outputs = moves()
    counter.traffic.saved = sum(map(nbytes, saved.values()))
    return counter.traffic, outputs


def by_autograd(layer: Callable[[Tensor], Tensor], at: Shape, weights: list[Tensor]) -> Directions:
    """Forward and backward of a layer that autograd differentiates."""
    x = at.meta(at.M, at.K).requires_grad_()
    forward, y = count(lambda: layer(x), (x, *weights))
    leaves = [x, *(w for w in weights if w.requires_grad)]
    backward, _ = count(lambda: torch.autograd.grad(y, leaves, at.meta(at.M, at.N)))
    return forward, backward


def peft_layer(
    at: Shape, adapters: torch.dtype, dropout: float, device: str = "meta"
) -> torch.nn.Module:
    """PEFT's own LoRA layer in training on a frozen bfloat16 base."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    base = torch.nn.Linear(at.K, at.N, bias=False, dtype=torch.bfloat16, device=device)
    base.requires_grad_(False)
    config = LoraConfig(r=at.R, lora_alpha=2 * at.R, lora_dropout=dropout)
    layer = Linear(base, "default", config, r=at.R, lora_alpha=2 * at.R)
    layer.lora_A.to(adapters)
    layer.lora_B.to(adapters)
    return layer.train()


def peft(at: Shape, adapters: torch.dtype = torch.float32, dropout: float = 0.0) -> Directions:
    """PEFT's LoRA layer; adapters are float32 unless one asks otherwise."""
    layer = peft_layer(at, adapters, dropout)
    return by_autograd(layer, at, list(layer.parameters()))


def two_gemms(at: Shape, quantised: bool = False) -> Directions:
    """A hand-written LoRA layer: the adapter's product is added in place to the base's."""
    weight = _weight(at, quantised)
    x, dy = at.meta(at.M, at.K), at.meta(at.M, at.N)
    a, b = at.meta(at.R, at.K), at.meta(at.N, at.R)
    da, db = at.meta(at.R, at.K), at.meta(at.N, at.R)

    def forward() -> Tensor:
        return (x @ weight().T).addmm_(x @ a.T, b.T)

    def backward() -> Tensor:
        da.addmm_((dy @ b).T, x, beta=0)
        db.addmm_(dy.T, x @ a.T, beta=0)
        return (dy @ weight()).addmm_(dy @ b, a)

    return count(forward)[0], count(backward)[0]


def bitsandbytes(at: Shape, adapters: torch.dtype = torch.float32) -> Directions:
    """NF4 with double quantisation under PEFT: dequantise, multiply, and add the adapter."""
    weight = _weight(at, quantised=True)
    a = at.meta(at.R, at.K, dtype=adapters).requires_grad_()
    b = at.meta(at.N, at.R, dtype=adapters).requires_grad_()

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return F.linear(x, weight())

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            return dy @ weight()

    def layer(x: Tensor) -> Tensor:
        y = Product.apply(x)
        return y + (F.linear(F.linear(x.to(adapters), a), b) * 2.0).to(y.dtype)

    return by_autograd(layer, at, [a, b])


def _weight(at: Shape, quantised: bool) -> Callable[[], Tensor]:
    """A function that gives W [N, K] in 16 bits, dequantised anew each time if it is quantised."""
    if not quantised:
        w = at.meta(at.N, at.K)
        return lambda: w
    import bitsandbytes  # noqa: F401  (registers the operators)

    packed = at.meta(at.N * at.K // 2, 1, dtype=torch.uint8)
    codes = at.meta(at.N * at.K // 64, dtype=torch.uint8)
    of_codes = at.meta(at.N * at.K // 64 // 256, dtype=torch.float32)
    table, mean = at.meta(256, dtype=torch.float32), at.meta(dtype=torch.float32)
    ops = torch.ops.bitsandbytes

    def weight() -> Tensor:
        scale = ops.dequantize_blockwise(codes, of_codes, table, 256, torch.float32) + mean
        return ops.dequantize_4bit(packed, scale, 64, "nf4", (at.N, at.K), torch.bfloat16)

    return weight


BASELINES: dict[str, Callable[[Shape], Directions]] = {
    "PEFT": peft,
    "PEFT, 16-bit adapters": lambda at: peft(at, torch.bfloat16),
    "PEFT, dropout 0.1": lambda at: peft(at, dropout=0.1),
    "two GEMMs": two_gemms,
}
QUANTISED_BASELINES: dict[str, Callable[[Shape], Directions]] = {
    "bitsandbytes + PEFT": bitsandbytes,
    "dequantise + two GEMMs": lambda at: two_gemms(at, quantised=True),
}
