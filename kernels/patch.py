"""Puts the kernels under a stock PEFT model, and takes them out again.

`patch` gives single modules a new `forward`; the modules, their weights and their names stay what
they were, so PEFT saves, loads and merges the adapter as ever, and `unpatch` is deleting those
attributes. What a module does that the kernels do not cover (a merged or disabled adapter, several
adapters at once, DoRA with dropout, …) is left to the module's own forward, call by call.

Not covered: adapters on embeddings and convolutions, and variants other than LoRA and DoRA.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from .dora import dora_linear
from .lora import lora_linear
from .norm import rms_norm
from .swiglu import swiglu, swiglu_fused

Forward = Callable[..., Any]


def patch(model: nn.Module) -> Counter[str]:
    """Put the kernels under `model`'s modules, anew if they are there; how many of each kind."""
    unpatch(model)
    kinds: Counter[str] = Counter()
    for module in model.modules():
        for kind, matches, make in KINDS:
            if matches(module) and (forward := make(module, module.forward)):
                module.__dict__["forward"] = functools.update_wrapper(forward, module.forward)
                cast(Any, forward).trivet = True  # what `unpatch` looks for
                kinds[kind] += 1
    return kinds


def unpatch(model: nn.Module) -> None:
    """Give the modules their own forwards back."""
    for module in model.modules():
        if hasattr(module.__dict__.get("forward"), "trivet"):
            del module.__dict__["forward"]


def _lora(module: nn.Module, stock: Forward) -> Forward:
    layer = cast(LoraLinear, module)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = _adapter(layer)
        if name is None or args or kwargs:
            return cast(Tensor, stock(x, *args, **kwargs))
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        p = layer.lora_dropout[name].p if _drops(layer, name) else 0.0
        base = layer.get_base_layer()
        if name in layer.lora_variant:
            magnitude = layer.lora_magnitude_vector[name].weight
            return dora_linear(x, base.weight, base.bias, a, b, magnitude, layer.scaling[name])
        seed = int(torch.randint(2**62, ())) if p else 0
        return lora_linear(x, base.weight, base.bias, a, b, layer.scaling[name], p, seed)

    return forward


def _adapter(layer: LoraLinear) -> str | None:
    """The one adapter whose work the kernels can do in this call, if there is one."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    name = active[0]
    variant = layer.lora_variant.get(name)
    if variant is not None and (
        type(variant).__name__ != "DoraLinearVariant" or _drops(layer, name)
    ):
        return None
    covered = (
        not layer.fan_in_fan_out
        and layer.lora_B[name].bias is None
        and layer.lora_A[name].weight.shape[0] <= 256
        and not layer.get_base_layer().weight.requires_grad
        and not cast(Any, layer)._forward_hooks
    )
    return name if covered else None


def _drops(layer: LoraLinear, name: str) -> bool:
    return layer.training and getattr(layer.lora_dropout[name], "p", 0.0) > 0


def _is_lora(module: nn.Module) -> bool:
    return type(module) is LoraLinear and type(module.get_base_layer()) is nn.Linear


def _norm(module: nn.Module, stock: Forward) -> Forward | None:
    offset = next((o for o in (0.0, 1.0) if _same_norm(module, stock, o)), None)
    if offset is None:
        return None

    def forward(x: Tensor) -> Tensor:
        return cast(Tensor, rms_norm(x, module.weight, _epsilon(module), offset=offset))

    return forward


def _same_norm(module: nn.Module, stock: Forward, offset: float) -> bool:
    """Whether the module computes what `rms_norm` does: tried on two rows, not told by its name."""
    weight = cast(Tensor, module.weight)
    x = torch.linspace(-2, 3, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    with torch.no_grad():
        y = rms_norm(x, weight, _epsilon(module), offset=offset)
        return torch.allclose(stock(x).float(), cast(Tensor, y).float(), rtol=2**-6)


def _epsilon(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", None) or module.eps)  # type: ignore[arg-type]


def _is_norm(module: nn.Module) -> bool:
    named = type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight")
    return named and not cast(Tensor, module.weight).is_meta


def _mlp(module: nn.Module, stock: Forward) -> Forward:
    m = cast(Any, module)
    if hasattr(m, "gate_up_proj"):
        return lambda x: m.down_proj(swiglu_fused(m.gate_up_proj(x)))
    return lambda x: m.down_proj(swiglu(m.gate_proj(x), m.up_proj(x)))


def _is_mlp(module: nn.Module) -> bool:
    silu = any(
        isinstance(getattr(module, name, None), nn.SiLU) for name in ("act_fn", "activation_fn")
    )
    children = {name for name, _ in module.named_children()}
    return silu and (
        {"gate_proj", "up_proj", "down_proj"} <= children
        or {"gate_up_proj", "down_proj"} <= children
    )


KINDS: list[
    tuple[str, Callable[[nn.Module], bool], Callable[[nn.Module, Forward], Forward | None]]
] = [
    ("lora", _is_lora, _lora),
    ("rms_norm", _is_norm, _norm),
    ("swiglu", _is_mlp, _mlp),
]
