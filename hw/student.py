"""The student: a model small enough for a chip, and what the host must feed it.

The tuned language model does not fit an FPGA; a small network over hashed word and letter counts
does, and learns most of the answers from the teacher's probabilities. The chip runs this student.
Not here: the network itself (network.py), fixed-point numbers (quantise.py).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from sklearn.feature_extraction import FeatureHasher
from torch import Tensor, nn

from .module import from_module
from .network import Network, mlp

CAP = 1  # counts end here, so that the chip reads one bit a bin: six of them fit one table of sums
BATCH = 64


def features(texts: Sequence[str], bins: int, cap: int = CAP) -> np.ndarray:
    """Counts of hashed words, word pairs and letter trigrams: uint8 [len(texts), bins], 0 to cap.

    The hash is MurmurHash3 with a fixed seed: the same text gives the same row everywhere.
    """
    if not texts:
        return np.zeros((0, bins), np.uint8)
    hasher = FeatureHasher(bins, input_type="string", alternate_sign=False, dtype=np.float32)
    return np.minimum(hasher.transform(map(_grams, texts)).toarray(), cap).astype(np.uint8)


def _grams(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text.lower())
    line = f" {' '.join(words)} "
    yield from ("w " + word for word in words)
    yield from (f"p {first} {second}" for first, second in pairwise(words))
    yield from ("c " + line[i : i + 3] for i in range(len(line) - 2))


def distil(
    x: np.ndarray,
    targets: np.ndarray,
    hidden: list[int],
    epochs: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Network:
    """Train a student of hidden layers on x [n, features]; the rest as in `train`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = mlp(x.shape[1], hidden, targets.shape[1])
    return train(student, x, targets, epochs, seed, on_epoch)


def train(
    module: nn.Module,
    x: np.ndarray,
    targets: np.ndarray,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Network:
    """Train a module where it is, on x [n, …] towards targets, float [n, classes] adding to 1.

    The teacher's probabilities give the distilled student, one-hot rows the hard-label one.
    `on_epoch` hears the epoch, from 1, and the mean training loss. UserError, before anything is
    trained, for a module that cannot go on the chip.
    """
    ids = from_module(module, x.shape[1:]).steps[0].kind == "embedding"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        module.train()
        fit(
            lambda rows: module(rows.long() if ids else rows),
            module.parameters(),
            x,
            targets,
            epochs,
            seed,
            3e-3,
            on_epoch,
        )
    return from_module(module.eval(), x.shape[1:])


def fit(
    model: Callable[[Tensor], Tensor],
    parameters: Iterator[nn.Parameter],
    x: np.ndarray,
    targets: np.ndarray,
    epochs: int,
    seed: int,
    learning_rate: float,
    on_epoch: Callable[[int, float], None],
) -> None:
    """Cross-entropy against soft targets, AdamW, cosine decay. The same seed, the same weights."""
    counts, wanted = torch.from_numpy(x).float(), torch.from_numpy(targets).float()
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, foreach=True)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            if len(rows) == 1 < len(x):  # batch-norm knows no variance of one row
                continue
            loss = nn.functional.cross_entropy(model(counts[rows]), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        on_epoch(epoch, total / len(x))
