"""Puts the kernels under a stock PEFT model, and takes them out again.

`patch` gives single modules a new `forward`; the modules, their weights and their names stay what
they were, so PEFT saves, loads and merges the adapter as ever, and `unpatch` deletes those
attributes. Whether a norm, an activation or a rotation is the one that a kernel computes is tried
on a few numbers, not told by a name. What a module does that the kernels do not cover (a merged or
disabled adapter, several adapters at once, DoRA with dropout, …) is left to the module's own
forward, call by call.

Not covered: adapters on embeddings and convolutions, and variants other than LoRA and DoRA.
"""

import functools
import inspect
import types
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from trivet.kernels.ops.dora import dora_linear
from trivet.kernels.ops.lora import lora_linear
from trivet.kernels.ops.loss import linear_cross_entropy
from trivet.kernels.ops.nf4 import NF4, from_quant_state
from trivet.kernels.ops.norm import rms_norm
from trivet.kernels.ops.rope import rope
from trivet.kernels.ops.swiglu import swiglu, swiglu_fused
from trivet.kernels.peft import attention
from trivet.kernels.peft.recompute import recomputable, recompute_in_backward

Forward = Callable[..., Any]
ROTARY = "apply_rotary_pos_emb"  # the name by which transformers' attentions look it up


def patch(model: nn.Module) -> Counter[str]:
    """Put the kernels under `model`'s modules, anew if they are there; how many of each kind."""
    unpatch(model)
    kinds: Counter[str] = Counter()
    for module in model.modules():
        for kind, matches, make in KINDS:
            if matches(module) and (forward := make(module, module.forward)):
                _put(module, forward)
                kinds[kind] += 1
        if _attention_of(module) == "sdpa":
            attention.register()
            cast(Any, module).config._attn_implementation = attention.NAME
            kinds["attention"] += 1
    return kinds


def unpatch(model: nn.Module) -> None:
    """Give the modules their own forwards back."""
    for module in model.modules():
        if getattr(module.__dict__.get("forward"), "trivet", False):
            del module.__dict__["forward"]
        if _attention_of(module) == attention.NAME:
            cast(Any, module).config._attn_implementation = "sdpa"


def _attention_of(module: nn.Module) -> str | None:
    return getattr(getattr(module, "config", None), "_attn_implementation", None)


def _put(module: nn.Module, forward: Forward) -> None:
    """`forward` in place of the module's own, with its signature, marked for `unpatch`."""

    @functools.wraps(module.forward)
    def put(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    cast(Any, put).trivet = True
    module.__dict__["forward"] = put


def _lora(module: nn.Module, stock: Forward) -> Forward | None:
    layer = cast(Any, module)
    base = layer.get_base_layer()
    state: NF4 | None = None
    if type(layer) is not LoraLinear:
        if getattr(base.weight.quant_state, "quant_type", None) != "nf4":
            return None
        state = from_quant_state(base.weight.data, base.weight.quant_state)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = _adapter(layer)
        if name is None or args or kwargs:
            return cast(Tensor, stock(x, *args, **kwargs))
        w = state or base.weight  # looked up in each call: PEFT may put another there
        a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        p = layer.lora_dropout[name].p if _drops(layer, name) else 0.0
        with recompute_in_backward(x):
            if name in layer.lora_variant:
                magnitude = layer.lora_magnitude_vector[name].weight
                return dora_linear(x, w, base.bias, a, b, magnitude, scale)
            seed = int(torch.randint(2**62, ())) if p else 0
            return lora_linear(x, w, base.bias, a, b, scale, p, seed)

    return forward


def _adapter(layer: Any) -> str | None:
    """The one adapter whose work the kernels can do in this call, if there is one."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    name = active[0]
    variant = layer.lora_variant.get(name)
    dora = type(variant).__name__ == "DoraLinearVariant"
    if variant is not None and (not dora or _drops(layer, name)):
        return None
    covered = (
        not getattr(layer, "fan_in_fan_out", False)
        and layer.lora_B[name].bias is None
        and layer.lora_A[name].weight.shape[0] <= 256
        and not layer.get_base_layer().weight.requires_grad
    )
    return cast(str, name) if covered else None


def _drops(layer: Any, name: str) -> bool:
    return layer.training and getattr(layer.lora_dropout[name], "p", 0.0) > 0


def _is_lora(module: nn.Module) -> bool:
    """PEFT's layer on a dense linear layer, or on one that bitsandbytes holds in four bits."""
    if type(module) is LoraLinear:
        return type(module.get_base_layer()) is nn.Linear
    return isinstance(module, LoraLayer) and type(module).__name__ == "Linear4bit"


def _norm(module: nn.Module, stock: Forward) -> Forward | None:
    offset = next((o for o in (0.0, 1.0) if _same_norm(module, stock, o)), None)
    if offset is None:
        return None
    epsilon = _epsilon(module)

    def make(x: Tensor) -> Tensor:
        return cast(Tensor, rms_norm(x, cast(Tensor, module.weight), epsilon, offset=offset))

    return lambda x: recomputable(make(x), lambda: make(x))


def _same_norm(module: nn.Module, stock: Forward, offset: float) -> bool:
    weight = cast(Tensor, module.weight)
    x = torch.linspace(-2, 3, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    with torch.no_grad():
        y = rms_norm(x, weight, _epsilon(module), offset=offset)
        return torch.allclose(stock(x).float(), cast(Tensor, y).float(), rtol=2**-6)


def _epsilon(module: Any) -> float:
    return float(getattr(module, "variance_epsilon", None) or module.eps)


def _is_norm(module: nn.Module) -> bool:
    named = type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight")
    return named and not cast(Tensor, module.weight).is_meta


def _mlp(module: nn.Module, stock: Forward) -> Forward:
    m = cast(Any, module)

    def forward(x: Tensor) -> Tensor:
        if hasattr(m, "gate_up_proj"):
            make = functools.partial(swiglu_fused, m.gate_up_proj(x))
        else:
            make = functools.partial(swiglu, m.gate_proj(x), m.up_proj(x))
        return cast(Tensor, m.down_proj(recomputable(make(), make)))

    return forward


def _is_mlp(module: nn.Module) -> bool:
    children = {name for name, _ in module.named_children()}
    separate = {"gate_proj", "up_proj", "down_proj"} <= children
    if not separate and not {"gate_up_proj", "down_proj"} <= children:
        return False
    x = torch.linspace(-9, 9, 99)
    act = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
    return callable(act) and torch.allclose(act(x), nn.functional.silu(x))


def _rope(module: nn.Module, stock: Forward) -> Forward | None:
    """The module's own forward, with our function where it looks `apply_rotary_pos_emb` up."""
    plain = inspect.unwrap(type(module).forward)
    x, angle = torch.linspace(-1, 1, 48).view(1, 2, 3, 8), torch.linspace(0, 3, 24).view(1, 3, 8)
    theirs = plain.__globals__[ROTARY]
    if not all(map(torch.allclose, theirs(x, x, angle, angle), rope(x, x, angle, angle))):
        return None
    names = {**plain.__globals__, ROTARY: rope}
    rebound = types.FunctionType(plain.__code__, names, None, plain.__defaults__)
    rebound.__kwdefaults__ = plain.__kwdefaults__
    return types.MethodType(rebound, module)


def _is_attention(module: nn.Module) -> bool:
    plain = inspect.unwrap(type(module).forward)
    return plain.__closure__ is None and ROTARY in plain.__code__.co_names


def _causal_loss(module: nn.Module, stock: Forward) -> Forward:
    m = cast(Any, module)

    def forward(*args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        frozen = not m.lm_head.weight.requires_grad
        if labels is None or not m.training or not frozen or "logits_to_keep" in kwargs:
            return stock(*args, labels=labels, **kwargs)
        count = kwargs.pop("num_items_in_batch", None)
        hidden = m.model(*args, **kwargs).last_hidden_state[:, :-1].flatten(0, 1)
        targets = labels[:, 1:].flatten()
        loss = linear_cross_entropy(hidden, m.lm_head.weight, targets, ignore_index=-100)
        if count is not None:
            loss = loss * (targets != -100).sum() / count
        return CausalLMOutputWithPast(loss=loss)

    return forward


def _is_causal_lm(module: nn.Module) -> bool:
    """A stock head on a stock loss: no bias, no adapter, no scaling or capping of the logits."""
    head = getattr(module, "lm_head", None)
    if not isinstance(module, PreTrainedModel) or type(head) is not nn.Linear:
        return False
    altered = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    config = module.config
    return (
        hasattr(module, "model")
        and head.bias is None
        and getattr(config, "loss_type", None) in (None, "ForCausalLM")
        and all(getattr(config, name, None) in (None, 1, 1.0) for name in altered)
    )


KINDS: list[
    tuple[str, Callable[[nn.Module], bool], Callable[[nn.Module, Forward], Forward | None]]
] = [
    ("lora", _is_lora, _lora),
    ("rms_norm", _is_norm, _norm),
    ("swiglu", _is_mlp, _mlp),
    ("rope", _is_attention, _rope),
    ("loss", _is_causal_lm, _causal_loss),
]
