"""One pad token and one list of stop tokens, in model, tokenizer and generation alike.

A base's files often disagree: its config has no pad token (or -1), its tokenizer pads with a token
of its own, its generation_config stops at tokens that the tokenizer does not call its end. What
pads is masked for attention, but the stock classification head of a decoder reads the last token
that is not `config.pad_token_id`: padded with another token, it reads the padding. So they are made
to agree when a base is loaded, before anything is tokenised, and every export ships what they agree
on.

Not here: a `<|...|>` that a user's text spells (tasks/turns.py).
"""

from typing import TYPE_CHECKING, Any

from trivet import UserError
from trivet.tasks.tokenizer import eos_ids, turn_end

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

# What changes a greedy reply. A graph's plain argmax knows nothing of it, so that no stage may.
NOT_GREEDY = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "sequence_bias",
    "guidance_scale",
    "min_length",
    "min_new_tokens",
    "num_beams",
    "penalty_alpha",
)
NEUTRAL: tuple[Any, ...] = (None, 0, 1, [], False)


def agree(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give `config` and `tokenizer` the same pad token. UserError where no token can pad, or where
    the tokenizer has ids that the embedding has no row for.

    The first of these that the embedding has and that the tokenizer calls special, so that no
    ordinary word is read as padding: the config's pad token (RoBERTa counts positions from it), the
    tokenizer's, an end token of either, any special one.
    """
    text = config.get_text_config()
    rows = getattr(text, "vocab_size", None) or len(tokenizer)
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UserError(
            f"model.base: its tokenizer has ids up to {largest:,}, and the model's embedding "
            f"{rows:,} rows (vocab_size): the tokenizer is another model's, or the model was not "
            "resized to it. Call model.resize_token_embeddings(len(tokenizer)) and save both, or "
            "give the tokenizer that belongs to it."
        )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*tokenizer.all_special_ids}
    wanted = (getattr(text, "pad_token_id", None), tokenizer.pad_token_id)
    ends = eos_ids(tokenizer.eos_token_id, getattr(text, "eos_token_id", None))
    candidates = [i for i in (*wanted, *ends, *sorted(special)) if i in special and 0 <= i < rows]
    if not candidates:
        raise UserError(
            "model.base: its tokenizer has no special token (pad, end, unknown), so nothing can "
            "fill a batch's shorter rows without being read as text: set its pad_token."
        )
    pad = candidates[0]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    config.pad_token_id = text.pad_token_id = pad


def stops(
    config: "PreTrainedConfig", generation: "GenerationConfig", tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """Every token that ends a reply: those of the three, and the one that ends a turn in the chat
    template.
    """
    text = config.get_text_config()
    named = eos_ids(
        tokenizer.eos_token_id, getattr(text, "eos_token_id", None), generation.eos_token_id
    )
    rows = getattr(text, "vocab_size", None) or len(tokenizer)
    return [i for i in eos_ids([*named, turn_end(tokenizer)]) if i < rows]


def agree_on_stops(model: Any, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Give a model that replies the stop and pad tokens of `agree`, in both its configs, and take
    out what makes a greedy reply another than the largest logit's; returns what that was.
    """
    generation, config = model.generation_config, model.config
    ids = stops(config, generation, tokenizer)
    generation.eos_token_id = config.eos_token_id = ids[0] if len(ids) == 1 else ids
    generation.pad_token_id = tokenizer.pad_token_id
    left_out = []
    for name in NOT_GREEDY:
        value = getattr(generation, name, None)
        if value not in NEUTRAL:
            left_out.append(f"{name} = {value}")
            setattr(generation, name, None)
    return left_out
