"""Puts the kernels under a stock PEFT model, and takes them out again.

`patch` gives single modules a new `forward` (kinds.py has which, put.py how). Whether it computes
what the module's own does is tried on numbers, not told by a name (probe.py). Where it does not, or
raises, all modules of that kind and class keep their own forward, and the result says which and
why: "rope: GptOssAttention". So no architecture is known here by name, and none is changed.

Not covered: gradients; tuning compares them, on the run's own rows.
"""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, cast

from torch import nn
from transformers import PreTrainedModel

from trivet.kernels.peft import attention, probe
from trivet.kernels.peft.kinds import KINDS, Kind
from trivet.kernels.peft.put import Forward, put, take_out

PACKING = "packing"  # the fallback's name where rows must be padded


class Patched(NamedTuple):
    """`names`: how many modules of each `kind: Class` run on kernels, and `packing`. `fallbacks`:
    those that stay stock, and why.
    """

    names: Counter[str]
    fallbacks: dict[str, str]

    @property
    def kinds(self) -> Counter[str]:
        """How many modules of each kind; `attention` is what packing takes."""
        kinds: Counter[str] = Counter()
        for name, count in self.names.items():
            kinds["attention" if name == PACKING else name.split(":")[0]] += count
        return kinds


def patch(model: nn.Module, leave: Collection[str] = (), probed: bool = False) -> Patched:
    """Put the kernels under `model`'s modules, anew if they are there.

    `leave`: names of fallbacks that stay stock without being tried. `probed`: all others were
    tried before, on this model, and are put without a trial.
    """
    unpatch(model)
    names: Counter[str] = Counter()
    fallbacks: dict[str, str] = {}
    forwards: dict[nn.Module, Forward] = {}
    members: dict[str, tuple[Kind, list[nn.Module]]] = {}
    for module in model.modules():
        for kind in KINDS:
            if kind.matches(module) and kind.label(module) not in leave:
                members.setdefault(kind.label(module), (kind, []))[1].append(module)
    for name, (kind, modules) in members.items():
        try:
            forwards |= {module: kind.make(module, module.forward) for module in modules}
        except Exception as error:
            fallbacks[name] = str(error) if type(error) is ValueError else probe.raised(error)
    members = {name: members[name] for name in members if name not in fallbacks}
    whole = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if not probed:
        fallbacks |= _differing(members, forwards, whole)
    packs = whole is not None and whole.can_generate() and PACKING not in leave
    if packs and whole is not None and (reason := _packing(whole, probed)):
        fallbacks[PACKING] = reason
        packs = False
    for name, (_, modules) in members.items():
        if name not in fallbacks:
            names[name] = len(modules)
            for module in modules:
                put(module, forwards[module])
    if packs:
        names[PACKING] = 1
    return Patched(names, fallbacks)


def unpatch(model: nn.Module) -> None:
    """Give the modules their own forwards back."""
    for module in model.modules():
        take_out(module)
    _attend(model, attention.NAME, "sdpa")


def _differing(
    members: dict[str, tuple[Kind, list[nn.Module]]],
    forwards: dict[nn.Module, Forward],
    whole: PreTrainedModel | None,
) -> dict[str, str]:
    """Which kinds of modules would not compute what they did, and why."""
    fallbacks: dict[str, str] = {}
    inside: dict[nn.Module, str] = {}
    for name, (kind, modules) in members.items():
        if kind.width is None:
            inside |= dict.fromkeys(modules, name)
            continue
        for module in modules:
            try:
                reason = probe.one_tensor(module, forwards[module], kind.width(module))
            except Exception as error:
                reason = probe.raised(error)
            if reason:
                fallbacks[name] = reason
                break
    if not inside:
        return fallbacks
    if whole is None:
        return fallbacks | dict.fromkeys(inside.values(), "it lies in no model of transformers")
    try:
        verdicts = probe.within_model(whole, {module: forwards[module] for module in inside})
    except Exception as error:
        reason = f"the model does not run on tokens alone: {probe.raised(error)}"
        return fallbacks | dict.fromkeys(inside.values(), reason)
    for module, name in inside.items():
        if reason := verdicts.get(module, "the model does not call it"):
            fallbacks[name] = reason
    return fallbacks


def _packing(whole: PreTrainedModel, probed: bool) -> str | None:
    """Have the attention keep apart rows that lie end to end; why it cannot, or None."""
    pack: Callable[[], Any] = lambda: _attend(whole, "sdpa", attention.NAME)  # noqa: E731
    if whole.config._attn_implementation != "sdpa":
        return f"its attention is {whole.config._attn_implementation}, not sdpa"
    attention.register()
    if probed:
        pack()
        return None
    try:
        reason = probe.packing(whole, pack)
    except Exception as error:
        reason = probe.raised(error)
    if reason:
        _attend(whole, attention.NAME, "sdpa")
    return reason


def _attend(model: nn.Module, before: str, after: str) -> None:
    """Change the attention of all configs within `model` that have `before`."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == before:
            cast(Any, config)._attn_implementation = after
