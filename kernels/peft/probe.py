"""Whether a forward on kernels computes what the module's own does, seen on numbers.

A module that takes one tensor is given random ones. One that takes more (an attention, a model with
its loss) is seen within its model, which runs on a few random tokens; there its forward is called a
second time, on kernels, with what it was called with. Weights of 16 bits are widened to float32 for
a module's own call, so that a wrong factor of 1.01 is not lost in rounding; zero matrices, as
LoRA's B at the start, are drawn at random, or what goes through them would not be seen. The
model's weights, gradients and random state stay what they were.

Tolerance: a product over K numbers, added up in another order, moves by about √K roundings; a
module chains four products at most (an attention), so 4·√K·eps of the result's norm.

Not covered: gradients, which tuning compares on the run's own rows.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from trivet.kernels.peft.attention import packed_rows
from trivet.kernels.peft.put import Forward, on_kernels

PRODUCTS = 4  # that a module chains: to queries or keys, scores, values, the output
ROWS = (9, 12)  # tokens of the rows that a model is seen on
SCALES = (1e-3, 1.0, 30.0)  # of random rows: at the least a norm's epsilon shows
HALVES = (torch.float16, torch.bfloat16)


def one_tensor(module: nn.Module, forward: Forward, width: int) -> str | None:
    """Why `forward` is not the module's own on x [3, width], or None."""
    tensors = _wide(module)
    some = next(iter([*tensors.values(), *module.parameters()]))
    dtype = some.dtype if some.is_floating_point() else torch.float32
    x = torch.randn(len(SCALES), width, generator=_generator()) * torch.tensor(SCALES)[:, None]
    return _compare(module, forward, tensors, (x.to(some.device, dtype),), {})


def within_model(
    model: PreTrainedModel, forwards: Mapping[nn.Module, Forward]
) -> dict[nn.Module, str | None]:
    """The same of modules of any form, by running `model` once. Those that it does not call are
    left out. `model` itself may be one of them: then its loss is compared.
    """
    verdicts: dict[nn.Module, str | None] = {}
    busy = False

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal busy
        if busy or verdicts.get(module):
            return
        busy = True  # what runs within is no call of the model's
        args, kwargs = tree_map(_widen, (args, kwargs))
        verdicts[module] = _compare(module, forwards[module], _wide(module), args, kwargs)
        busy = False

    inside = [module for module in forwards if module is not model]
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in inside]
    try:
        with torch.no_grad(), _still(model), _cast(model):
            if model in forwards:
                verdicts[model] = _loss(model, forwards[model])
            else:
                model(**_padded(model))
    finally:
        for handle in handles:
            handle.remove()
    return verdicts


def packing(model: PreTrainedModel, pack: Callable[[], Any]) -> str | None:
    """Why rows of `model` cannot lie end to end, or None. `pack` has its attention keep them apart.

    Each row's logits are to be those of the row alone, and those of the second are to stay when
    the first is another.
    """
    tokens = _generator()
    first, other, second = (_ids(model, n, tokens) for n in (ROWS[0], *ROWS))
    layers = len([m for m in model.modules() if hasattr(m, "layer_idx")]) or 1
    wide = max(weight.shape[-1] for weight in model.parameters())
    rounding = max(torch.finfo(_dtype(model)).eps, wide**0.5 * torch.finfo(torch.float32).eps)
    depth = rounding * (2 * layers) ** 0.5  # roundings at random add up by the root
    # With caches, as it is trained: without, some models make another mask.
    with torch.no_grad(), _still(model, caches=True), _cast(model):
        alone = [model(input_ids=row).logits[0] for row in (first, second)]
        pack()
        rows, moved = (
            model(**packed_rows([row, second])).logits[0].split(ROWS) for row in (first, other)
        )
    near = slice(0, 4)  # a state that leaks is strongest there
    leak = _distance(rows[1][near], moved[1][near])
    if not leak <= depth:
        return f"rows see each other where they lie end to end: by {leak:.1g} of a row's logits"
    error = max(_distance(a, b) for a, b in zip(rows, alone, strict=True))
    if not error <= PRODUCTS * depth:
        return f"a row among others has other logits than alone: by {error:.1g}"
    return None


def _compare(
    module: nn.Module, forward: Forward, tensors: dict[str, Tensor], args: Any, kwargs: Any
) -> str | None:
    try:
        some = next(module.parameters())
        with torch.no_grad(), _still(module), torch.autocast(some.device.type, enabled=False):
            theirs = _tensors(functional_call(module, tensors, args, kwargs))
            with on_kernels(module, forward):
                ours = _tensors(functional_call(module, tensors, args, kwargs))
    except Exception as error:
        return str(error) if type(error) is ValueError else raised(error)
    if len(ours) != len(theirs):
        return "it gives other results"
    wide = max((weight.shape[-1] for weight in module.parameters() if weight.dim()), default=1)
    exact = all(p.dtype in (*HALVES, torch.float32, torch.float64) for p in module.parameters())
    # bitsandbytes multiplies what it holds in four bits in 16
    eps = torch.finfo(torch.float32 if exact else torch.bfloat16).eps
    tolerance = PRODUCTS * wide**0.5 * eps if exact else eps
    far = max((_distance(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return None if far <= tolerance else f"its result differs by {far:.1g} of its size"


def _loss(model: PreTrainedModel, forward: Forward) -> str | None:
    """The logits must be the head's, to the last bit, and the loss their cross-entropy alone: a cap
    or a scale of logits, or a loss of a router, can be smaller than the rounding of 16 bits.
    """
    inputs = _padded(model)
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    hidden: list[Tensor] = []
    body: Any = model.base_model
    handle = body.register_forward_hook(lambda m, a, out: hidden.append(out.last_hidden_state))
    try:
        stock = model(**inputs, labels=labels)
    finally:
        handle.remove()
    more = {key for key, value in stock.items() if value is not None} - {
        *("loss", "logits", "hidden_states", "attentions")
    }
    if more:
        return f"it gives {', '.join(sorted(more))} too"
    head: Any = model.lm_head
    if not hidden:
        return "its head is not beside its body"
    if not torch.equal(head(hidden[0]).to(stock.logits.dtype), stock.logits):
        return "its logits are not its head's alone"
    plain = F.cross_entropy(stock.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    eps = torch.finfo(torch.float32).eps
    if not abs(plain - stock.loss) <= sum(ROWS) ** 0.5 * PRODUCTS * eps * abs(plain):
        return "its loss is not the cross-entropy alone"
    model.training = True  # this one alone: it is where the loss is made
    try:
        with on_kernels(model, forward):
            ours = model(**inputs, labels=labels)
    except Exception as error:
        return raised(error)
    far = abs(ours.loss - stock.loss) / abs(stock.loss)
    tolerance = PRODUCTS * head.in_features**0.5 * eps
    tolerance = max(tolerance, torch.finfo(_dtype(model)).eps)
    return None if far <= tolerance else f"its loss differs by {far:.1g}"


def raised(error: Exception) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.160}"


@contextmanager
def _still(module: nn.Module, caches: bool = False) -> Iterator[None]:
    """Without dropout, and without caches unless they are wanted; flags and the random state are
    put back.
    """
    flags = {m: m.training for m in module.modules()}
    config: Any = getattr(module, "config", None)
    known = getattr(config, "use_cache", None)
    try:
        if known and not caches:  # a second call would add to the first one's
            config.use_cache = False
        with torch.random.fork_rng():
            module.eval()
            yield
    finally:
        for m, training in flags.items():
            m.training = training
        if known:
            config.use_cache = known


def _cast(model: PreTrainedModel) -> torch.autocast:
    """As tuning runs it: in 16 bits where the base lies in 16, with what is trained in 32."""
    dtype = _dtype(model)
    half = dtype in HALVES
    return torch.autocast(model.device.type, dtype if half else torch.bfloat16, enabled=half)


def _wide(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors that a call in float32 needs in place of its own."""
    draw = _generator()
    tensors: dict[str, Tensor] = {}
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if weight.dtype in HALVES:
            tensors[name] = weight.detach().float()
        if weight.dim() == 2 and weight.is_floating_point() and not weight.any():
            zero = 0.02 * torch.randn(weight.shape, generator=draw)
            tensors[name] = zero.to(weight.device, tensors.get(name, weight).dtype)
    return tensors


def _widen(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in HALVES else x


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖; infinite where the shapes differ, a number that is none where one is."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300)) if not a.equal(b) else 0.0


def _dtype(model: nn.Module) -> torch.dtype:
    """That of most of its weights."""
    return max((p for p in model.parameters() if p.is_floating_point()), key=Tensor.numel).dtype


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _ids(model: PreTrainedModel, count: int, draw: torch.Generator) -> Tensor:
    size = cast(Any, model.get_input_embeddings()).num_embeddings
    size = min(size, getattr(model.config, "vocab_size", size))  # the head may be the smaller one
    return torch.randint(size, (1, count), generator=draw).to(model.device)


def _padded(model: PreTrainedModel) -> dict[str, Any]:
    """Two rows of random tokens, the first one padded."""
    ids = torch.cat([_ids(model, max(ROWS), _generator().manual_seed(n)) for n in (1, 2)])
    mask = torch.ones_like(ids)
    mask[0, ROWS[0] :] = 0
    return {"input_ids": ids, "attention_mask": mask}
