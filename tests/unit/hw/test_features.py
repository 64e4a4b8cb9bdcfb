"""The features of a text are the same everywhere.

Run: .venv/bin/pytest tests/unit/hw/test_features.py
"""

import hashlib

import numpy as np

from trivet.hw.features import hash_ngrams

TEXTS = [
    "Turn ON the kitchen light",
    "set the lamp to 50 %",
    "Wie spät ist es?",
    "",
    "la la la la la",
]


def test_features_count_words_pairs_and_trigrams_up_to_the_cap() -> None:
    rows = hash_ngrams(TEXTS, 4096)
    assert rows.dtype == np.uint8 and rows.shape == (5, 4096)
    # 5 words + 4 pairs + the trigrams of " turn on the kitchen light ", none of them twice
    assert rows[0].sum() == 5 + 4 + len(" turn on the kitchen light ") - 2
    assert not rows[3].any()
    assert rows[4].max() == 1 and hash_ngrams(TEXTS, 4096, cap=5)[4].max() == 5
    assert (hash_ngrams([TEXTS[0].upper()], 4096) == rows[:1]).all()
    assert hash_ngrams([], 64).shape == (0, 64)


def test_features_are_the_same_everywhere() -> None:
    """The digest is another process', another release's: no hash of Python's own is in it."""
    digest = hashlib.sha256(hash_ngrams(TEXTS, 256).tobytes()).hexdigest()
    assert digest == "a3f798afd3c2cc7b0f5f570bf5071bded5d813cd33cc2bf28731b39fff882450"
