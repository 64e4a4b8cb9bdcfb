"""Small random models of transformers' own text architectures: what the sweeps run over.

`ARCHITECTURES` is filled from transformers' auto mappings, so a new one comes with a new
transformers. `SIZES` makes a config of any of them small; `OVERRIDES` mends what then does not fit
together, and gives a hybrid one layer of each of its kinds. `SAMPLE` is twenty that differ most.

Not covered: models that read pictures, sound or boxes, encoder-decoders, and `LEFT_OUT`, by reason.
"""

from typing import Any, NamedTuple

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

VOCABULARY = 300
POSITIONS = 128
PAD, BOS, EOS = 0, 1, 2
WINDOW = 8  # shorter than a row, so that a window that is lost shows

# What configs call their sizes -> a small one. A name that a config does not have is left out.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "dim_ff"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), POSITIONS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    "num_key_value_heads": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "sliding_window": WINDOW,
    "initializer_range": 0.1,  # at 0.02 these widths are all but linear, and a lost part is small
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
STATE = {"layer_types": ["linear_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": {"n_group": 2, "topk_group": 1},
    "bailing_hybrid": STATE,
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128, "mlp_multipliers": [0.7, 1.4]},
    "funnel": {"block_sizes": [1, 1], "d_head": 16, "d_inner": 128},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 16, "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": MAMBA | STATE | {"shared_intermediate_size": 64},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": STATE,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {
        "ffn_hidden_size": 128, "expert_ffn_hidden_size": 64, "zero_expert_num": 2, "moe_topk": 2,
    },
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mamba2": {"num_heads": 8, "state_size": 16, "chunk_size": 16, "n_groups": 1},
    "mistral4": {"head_dim": 32},  # of both its parts
    "mixtral": {"output_router_logits": True},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention"], "n_groups": 1,
        "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "chunk_size": 16,
    },
    "olmo_hybrid": STATE,
    "qwen3_5_moe_text": STATE,
    "qwen3_5_text": STATE,
    "qwen3_next": STATE,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": WINDOW},
    "reformer": {
        "is_decoder": True, "axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 16],
        "attn_layers": ["local", "local"], "feed_forward_size": 128, "attention_head_size": 16,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 16, "pronunciation_vocab_size": VOCABULARY,
        "shape_embed_dim": 16, "shape_vocab_size": VOCABULARY,
    },
    "zamba": {
        "num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "mamba_dt_rank": 4,
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
LEFT_OUT = {
    "bert-generation": "an encoder's half of an encoder-decoder",
    "blt": "reads bytes in patches, five configs deep",
    "bros": "reads boxes",
    "cohere_compass_text": "the text half of a model that reads pictures",
    "dbrx": "does not build from its own default config in transformers 5.24",
    "dory": "does not run on a mask in transformers 5.24",
    "fuyu": "reads pictures",
    "gemma4_assistant": "drafts for another model",
    "gemma4_unified_assistant": "drafts for another model",
    "inkling2_loop_text": "half of a model that reads pictures",
    "inkling2_text": "half of a model that reads pictures",
    "layoutlm": "reads boxes",
    "layoutlmv2": "reads pictures",
    "layoutlmv3": "reads pictures",
    "lilt": "reads boxes",
    "markuplm": "reads paths in HTML",
    "perceiver": "reads arrays of any kind",
    "qwen4_exp_text": "half of a model that reads pictures",
    "tapas": "reads tables",
    "trocr": "a decoder that needs an encoder",
    "xlstm": "its CPU path does not run",
    "xmod": "wants a language for each row",
}
# Those that differ most: the norm, the gate, the rotation, the window, the experts, the state.
SAMPLE = (
    "bert", "bloom", "codegen", "deepseek_v3", "falcon", "falcon_h1", "gemma2", "gpt2", "gpt_oss",
    "granitemoehybrid", "jamba", "lfm2", "llama", "minimax", "mistral", "mixtral", "modernbert",
    "phi3", "recurrent_gemma", "stablelm",
)  # fmt: skip
SEES_ALL = {"cpmant", "xlnet"}  # of those that have a head for generating
SEES_BEFORE = {"mistral4", "reformer"}  # of those that have none, or fill gaps


class Architecture(NamedTuple):
    """`name`: transformers' model type. `classifies`, `tags`, `generates`: whether it has the head.
    `causal`: whether no token sees one after it.
    """

    name: str
    classifies: bool
    tags: bool
    generates: bool
    causal: bool

    def config(self, **more: Any) -> PretrainedConfig:
        return config_of(self.name, **more)

    def model(self, head: str, **more: Any) -> PreTrainedModel:
        """The same random weights each time; `head`: the auto class, AutoModelForCausalLM, …"""
        return random_model(self.config(**more), head)


def config_of(name: str, **more: Any) -> PretrainedConfig:
    """A small config of a model type; `more` goes before what is set here."""
    cls = getattr(transformers, CONFIG_MAPPING_NAMES[name])
    keys = {*cls().to_dict(), *more}
    sizes = {key: size for key, size in SIZES.items() if key in keys}
    if "kv_lora_rank" in keys:  # latent attention: each head has its own keys
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return cls(**sizes | OVERRIDES.get(name, {}) | more)


def random_model(config: PretrainedConfig, head: str) -> PreTrainedModel:
    """Vectors too are drawn: a norm of ones is the same with and without its weight."""
    torch.manual_seed(0)
    model = getattr(transformers, head).from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight += 0.1 * torch.randn_like(weight)
    return model


def _architectures() -> dict[str, Architecture]:
    mappings = {
        kind: getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")
        for kind in ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "CAUSAL_LM", "MASKED_LM")
    }
    classify, tag, generate, fill = mappings.values()
    names = sorted({*classify, *tag, *generate} - {*LEFT_OUT})
    causal = {*generate} - {*fill} - SEES_ALL | SEES_BEFORE
    return {
        name: Architecture(name, name in classify, name in tag, name in generate, name in causal)
        for name in names
        if _reads_text_alone(name)
    }


def _reads_text_alone(name: str) -> bool:
    cls = getattr(transformers, CONFIG_MAPPING_NAMES[name])
    other = any(kind in part for part in cls.sub_configs for kind in ("vision", "audio", "vq"))
    return not other and not cls().is_encoder_decoder


ARCHITECTURES = _architectures()
