"""The kinds of modules that have a kernel: which ones, and the forward that a kernel makes.

A module is recognised by what it is built of; whether its forward computes what the kernel does is
for the probe to say (probe.py). What a module does in one call that the kernels do not cover (a
merged or disabled adapter, several adapters at once, DoRA with dropout, …) is left to the module's
own forward, call by call.

Not covered: adapters on embeddings and convolutions, and variants other than LoRA and DoRA.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple, cast

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
from trivet.kernels.peft.put import Forward
from trivet.kernels.peft.recompute import recomputable, recompute_in_backward

ROTARY = "apply_rotary_pos_emb"  # the name by which transformers' attentions look it up
EPSILON = ("variance_epsilon", "eps", "epsilon")


class Kind(NamedTuple):
    """`make`: a forward on kernels from a module and its own; ValueError says why there is none.

    `width`: the size of the one tensor [rows, width] that such a module takes; None where it takes
    more than that, and is seen only within its model.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    make: Callable[[nn.Module, Forward], Forward]
    width: Callable[[Any], int] | None = None

    def label(self, module: nn.Module) -> str:
        """The name under which all modules of this kind and class fall back."""
        inner = module.get_base_layer() if isinstance(module, LoraLayer) else module
        return f"{self.name}: {type(inner).__name__}"


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _is_lora(module: nn.Module) -> bool:
    return isinstance(module, LoraLayer) and isinstance(module, nn.Module)


def _lora(module: nn.Module, stock: Forward) -> Forward:
    """PEFT's layer on a dense linear layer, or on one that bitsandbytes holds in four bits."""
    layer = cast(Any, module)
    base = layer.get_base_layer()
    state: NF4 | None = None
    if type(module).__name__ == "Linear4bit":
        if getattr(base.weight.quant_state, "quant_type", None) != "nf4":
            raise ValueError("its four bits are not NF4")
        state = from_quant_state(base.weight.data, base.weight.quant_state)
    elif type(module) is not LoraLinear or not isinstance(base, nn.Linear):
        raise ValueError("it is no linear layer")
    if _adapter(layer) is None:
        raise ValueError("its adapter is not one that has a kernel")

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = _adapter(layer)
        if name is None or args or kwargs:
            return cast(Tensor, stock(x, *args, **kwargs))
        w = state or base.weight  # looked up in each call: PEFT may put another there
        a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        p = layer.lora_dropout[name].p if _drops(layer, name) else 0.0
        x = _dense(x)
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


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("RMSNorm") and isinstance(weight, Tensor)


def _norm(module: nn.Module, stock: Forward) -> Forward:
    weight = cast(Tensor, module.weight)
    epsilon = next((v for name in EPSILON if (v := getattr(module, name, None)) is not None), None)
    if epsilon is None or weight.dim() != 1:
        raise ValueError("it has no vector of weights, or no epsilon")
    x = torch.linspace(-2, 3, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    with torch.no_grad():  # the weight is a factor, or what is added to a factor of one
        errors = [(stock(x) - _normed(x, module, epsilon, o)).abs().sum() for o in (0.0, 1.0)]
    offset = 0.0 if errors[0] <= errors[1] else 1.0

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs:
            return cast(Tensor, stock(x, *args, **kwargs))
        make = functools.partial(_normed, _dense(x), module, epsilon, offset)
        return recomputable(make(), make)

    return forward


def _normed(x: Tensor, module: nn.Module, epsilon: float, offset: float) -> Tensor:
    return cast(Tensor, rms_norm(x, cast(Tensor, module.weight), epsilon, offset=offset))


def _is_mlp(module: nn.Module) -> bool:
    children = {name for name, _ in module.named_children()}
    separate = {"gate_proj", "up_proj", "down_proj"} <= children
    return separate or {"gate_up_proj", "down_proj"} <= children


def _mlp(module: nn.Module, stock: Forward) -> Forward:
    m = cast(Any, module)
    fused = hasattr(m, "gate_up_proj")

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs:
            return cast(Tensor, stock(x, *args, **kwargs))
        if fused:
            make = functools.partial(swiglu_fused, m.gate_up_proj(x))
        else:
            make = functools.partial(swiglu, m.gate_proj(x), m.up_proj(x))
        return cast(Tensor, m.down_proj(recomputable(make(), make)))

    return forward


def _mlp_width(module: Any) -> int:
    first = module.gate_up_proj if hasattr(module, "gate_up_proj") else module.gate_proj
    return int(first.in_features)


def _is_attention(module: nn.Module) -> bool:
    plain = inspect.unwrap(type(module).forward)
    return isinstance(plain, types.FunctionType) and ROTARY in plain.__code__.co_names


def _rope(module: nn.Module, stock: Forward) -> Forward:
    """The module's own forward, with our function where it looks `apply_rotary_pos_emb` up."""
    plain = inspect.unwrap(type(module).forward)
    if plain.__closure__ is not None:
        raise ValueError("its forward is a closure")

    def rotate(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if len(args) < 4:
            raise ValueError("its rotation takes other arguments than q, k, cos, sin")
        q, k, *rest = args
        return rope(_dense(q), _dense(k), *rest, **kwargs)

    names = {**plain.__globals__, ROTARY: rotate}
    rebound = types.FunctionType(plain.__code__, names, None, plain.__defaults__)
    rebound.__kwdefaults__ = plain.__kwdefaults__
    return types.MethodType(rebound, module)


def _is_causal_lm(module: nn.Module) -> bool:
    return isinstance(module, PreTrainedModel) and hasattr(module, "lm_head")


def _causal_loss(module: nn.Module, stock: Forward) -> Forward:
    m = cast(Any, module)
    if type(m.lm_head) is not nn.Linear or m.lm_head.bias is not None:
        raise ValueError("its head is no linear layer without a bias")
    if m.lm_head.weight.requires_grad:
        raise ValueError("its head is trained")
    body = m.base_model
    if body is m:
        raise ValueError("its head is not beside its body")

    def forward(*args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        frozen = not m.lm_head.weight.requires_grad
        if labels is None or not m.training or not frozen or "logits_to_keep" in kwargs:
            return stock(*args, labels=labels, **kwargs)
        count = kwargs.pop("num_items_in_batch", None)
        hidden = body(*args, **kwargs).last_hidden_state[:, :-1].flatten(0, 1)
        targets = labels[:, 1:].flatten()
        loss = linear_cross_entropy(hidden, m.lm_head.weight, targets, ignore_index=-100)
        if count is not None:
            loss = loss * (targets != -100).sum() / count
        return CausalLMOutputWithPast(loss=loss)

    return forward


KINDS = (
    Kind("lora", _is_lora, _lora, lambda m: int(m.in_features)),
    Kind("rms_norm", _is_norm, _norm, lambda m: len(m.weight)),
    Kind("swiglu", _is_mlp, _mlp, _mlp_width),
    Kind("rope", _is_attention, _rope),
    Kind("loss", _is_causal_lm, _causal_loss),
)
