"""A tokenizer as every stage uses it: fast, pad token set, padding on the right.

Of a folder that Trivet wrote it is what its own files say. Of a base, `trivet.tuning.special_ids`
first makes it agree with the model's config.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = {"TokenizersBackend", "PreTrainedTokenizerFast"}  # tokenizer.json is all there is to them


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer; one that is plain without AutoTokenizer, which imports torch.

    UserError where it is not a fast one: a row is cut by the places of its tokens in the text.
    """
    import transformers

    plain = _plain(folder)
    kind = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
    tokenizer = kind.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(
            f"model.base has a tokenizer in Python ({type(tokenizer).__name__}), which does not "
            "say where in the text a token lies: give a base with a tokenizer.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    # A sentence encoder's file cuts and pads by itself; who reads it alone would answer otherwise.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer  # type: ignore[no-any-return]


def _plain(folder: Path) -> bool:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return config.get("tokenizer_class") in PLAIN and (folder / "tokenizer.json").exists()


@lru_cache(maxsize=8)
def around(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text: `[CLS]` and `[SEP]`, a first `<s>`, or
    nothing.
    """
    bare, whole = (tokenizer("a", add_special_tokens=s)["input_ids"] for s in (False, True))
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return whole[:at], whole[at + len(bare) :]
    raise UserError("model.base: its tokenizer's special tokens change the text between them.")


def word_ids(tokenizer: "PreTrainedTokenizerBase", word: str) -> list[int]:
    """A word's own tokens, at least one: what the tokenizer drops (a lone joiner) is unknown."""
    ids: list[int] = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return ids or [unknown if unknown is not None else tokenizer.pad_token_id]


def stop_ids(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that end a reply: what the folder's generation_config.json names (an export's has
    them all), the tokenizer's own end, and the chat template's.
    """
    try:
        content = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {}
    named = content.get("eos_token_id")
    return eos_ids(named, tokenizer.eos_token_id, turn_end(tokenizer))


def eos_ids(*values: Any) -> list[int]:
    """Ids out of what configs write, an id, a list of them or nothing; sorted, each once."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    return sorted({i for ids in lists for i in ids if isinstance(i, int) and i >= 0})


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that the chat template puts behind a reply, None where that is no token of its own.

    One that was added to the vocabulary, called special or not: ChatML's end often is not.
    """
    suffix = _frame(tokenizer, tokenizer.chat_template)[1]
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    behind = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    return next((i for i in behind if i in added), None)


def markup(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The special tokens that a text spells, which the tokenizer reads as such, sorted."""
    return sorted({*_spelled(tokenizer).findall(text)})


@lru_cache(maxsize=8)
def _spelled(tokenizer: "PreTrainedTokenizerBase") -> "re.Pattern[str]":
    added = tokenizer.added_tokens_decoder.values()
    words = {token.content for token in added if token.special} | {*tokenizer.all_special_tokens}
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def reply_frame(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """What the chat template writes before a reply's text, behind the prompt, and after it."""
    return _frame(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=8)
def _frame(tokenizer: "PreTrainedTokenizerBase", template: Any) -> tuple[str, str]:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Yes."}]
    try:
        prompt = str(
            tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        )
        before, _, after = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(
            "Yes."
        )
    except Exception:  # a template raises what its author liked; who renders a row says what it was
        return "", ""
    return before.removeprefix(prompt) if before.startswith(prompt) else "", after
