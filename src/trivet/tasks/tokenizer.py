"""A tokenizer as every stage uses it: pad token set, padding on the right."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = {"TokenizersBackend", "PreTrainedTokenizerFast"}  # tokenizer.json is all there is to them


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer; one that is plain without AutoTokenizer, which imports torch."""
    import transformers

    plain = _plain(folder)
    kind = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
    tokenizer = kind.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer  # type: ignore[no-any-return]


def _plain(folder: Path) -> bool:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return config.get("tokenizer_class") in PLAIN and (folder / "tokenizer.json").exists()
