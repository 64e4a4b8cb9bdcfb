"""A small copy of a base: its config class, tokenizer and template, two layers, random weights.

Everything that decides whether a base comes through the chain is in its architecture and in its
tokenizer, and both are there in a model of a few MB, which tunes and exports in seconds. The
vocabulary and the positions stay as they are; layers, widths, heads and experts become few, and a
hybrid keeps a layer of each of its kinds.

Not covered: what only the real weights show, huge activations for one. The parity table shows that.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# What configs call their sizes, and the most that is left of each.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
LARGEST: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim"), 64),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_dim", "lru_width"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "dim_ff"), 128),
    **dict.fromkeys(("ffn_hidden_size", "shared_intermediate_size", "d_inner"), 128),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("expert_ffn_hidden_size", "dense_intermediate_size"), 64),
    **dict.fromkeys(("head_dim", "d_head", "v_head_dim", "qk_nope_head_dim", "d_kv"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "global_head_dim", "attention_head_size"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("rotary_dim", "hidden_size_per_layer_input"), 16),
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "num_kv_shared_layers": 0,
}
KINDS = ("layer_types", "layers_block_type")
LIVELY = 0.1  # the spread of random weights; at 0.02 these widths are all but linear


def small_config(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """A copy of `config` with small sizes; one that holds a text model's config is small there."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    deep = next((getattr(text, n) for n in LAYERS if isinstance(getattr(text, n, None), int)), 0)
    kept = _kinds(text, deep)
    heads, groups = (getattr(text, n, None) for n in ("num_attention_heads", "num_key_value_heads"))
    names = {*vars(text), *getattr(type(text), "attribute_map", {})}
    for name in names:
        value = getattr(text, name, None)
        if name in LARGEST and isinstance(value, int) and not isinstance(value, bool):
            setattr(text, name, min(value, LARGEST[name]))
        elif name in LAYERS and isinstance(value, int):
            setattr(text, name, len(kept))
        elif isinstance(value, list) and deep and len(value) == deep and name in vars(text):
            setattr(text, name, [value[i] for i in kept])
    if isinstance(heads, int):
        text.num_attention_heads = fewer = next(n for n in (4, 2, 1) if n <= heads)
        if isinstance(groups, int):
            text.num_key_value_heads = fewer if groups == heads else min(groups, 2)
    _fit_rotation(text)
    if hasattr(text, "initializer_range"):
        text.initializer_range = LIVELY
    return small


def _kinds(text: Any, deep: int) -> list[int]:
    """Which of the `deep` layers stay: the first of each kind, two at least. Where the config
    computes the kinds from a period, as many of the first layers as have them all.
    """
    for name in KINDS:
        kinds = getattr(text, name, None)
        if not isinstance(kinds, list) or len(kinds) != deep:
            continue
        first = [i for i, kind in enumerate(kinds) if kinds.index(kind) == i]
        if name not in vars(text):
            return list(range(max(2, 1 + first[-1])))
        more = [i for i in range(deep) if i not in first]
        return sorted([*first, *more[: max(0, 2 - len(first))]])
    return [*range(min(2, deep))]


def _fit_rotation(text: Any) -> None:
    """Long contexts' factors are one a pair of rotated features: as many as the small head has."""
    rotation = getattr(text, "rope_parameters", None)
    width = getattr(text, "head_dim", None) or 16
    for part in [rotation, *rotation.values()] if isinstance(rotation, dict) else []:
        if isinstance(part, dict):
            pairs = int(width * (part.get("partial_rotary_factor") or 1.0)) // 2
            for name in ("short_factor", "long_factor"):
                if isinstance(part.get(name), list):
                    part[name] = part[name][:pairs]


def write_small(folder: Path, target: Path, task: Task, remote: bool) -> None:
    """The small copy of the base in `folder`, as a base of its own in `target`.

    Raises what transformers raises where the class does not build at these sizes.
    """
    import torch
    import transformers

    from trivet.tuning import base

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote)
    tokenizer: PreTrainedTokenizerBase = base.tokenizer_of(folder, remote)
    small = small_config(config)
    kind: Any = getattr(transformers, task.head)
    torch.manual_seed(0)
    model = kind.from_config(small, trust_remote_code=remote)
    with torch.no_grad():  # a norm's ones too: with and without its weight, it would be the same
        for weight in model.parameters():
            if weight.dim() == 1:
                weight += LIVELY * torch.randn_like(weight)
    model.save_pretrained(target)
    generation = folder / "generation_config.json"
    if generation.exists():
        (target / generation.name).write_bytes(generation.read_bytes())
    tokenizer.save_pretrained(target)
