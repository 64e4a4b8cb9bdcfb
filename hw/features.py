"""What a text is to the chip: bits that say which hashed words and letters it has.

The hashing is the host's; the chip reads the bins, a bit each.
Not here: rows that are numbers or token ids already.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from trivet.hw.fixed import Fixed

CAP = 1  # counts end here, so that the chip reads one bit a bin: six of them fit one table of sums
COUNT_TYPE = Fixed.for_range(CAP, CAP.bit_length(), signed=False)


def hash_ngrams(texts: Sequence[str], bins: int, cap: int = CAP) -> np.ndarray:
    """Counts of hashed words, word pairs and letter trigrams: uint8 [len(texts), bins], 0 to cap.

    The hash is MurmurHash3 with a fixed seed: the same text gives the same row everywhere.
    """
    from sklearn.feature_extraction import FeatureHasher  # takes a second to import

    if not texts:
        return np.zeros((0, bins), np.uint8)
    hasher = FeatureHasher(bins, input_type="string", alternate_sign=False, dtype=np.float32)
    return np.minimum(hasher.transform(map(_ngrams, texts)).toarray(), cap).astype(np.uint8)


def _ngrams(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text.lower())
    line = f" {' '.join(words)} "
    yield from ("w " + word for word in words)
    yield from (f"p {first} {second}" for first, second in pairwise(words))
    yield from ("c " + line[i : i + 3] for i in range(len(line) - 2))
