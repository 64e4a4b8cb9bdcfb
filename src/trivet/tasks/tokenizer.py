"""A tokenizer as every stage uses it: fast, pad token set, padding on the right.

Of a folder that Trivet wrote it is what its own files say. Of a base, `trivet.tuning.special_ids`
first makes it agree with the model's config.
"""

import json
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
    """The tokens that end a reply, as the exported folder's generation_config.json has them."""
    try:
        content = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {}
    return eos_ids(content.get("eos_token_id"), tokenizer.eos_token_id)


def eos_ids(*values: Any) -> list[int]:
    """Ids out of what configs write, an id, a list of them or nothing; sorted, each once."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    return sorted({i for ids in lists for i in ids if isinstance(i, int) and i >= 0})
