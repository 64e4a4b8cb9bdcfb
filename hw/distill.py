"""Training the student: a network small enough for a chip, from a teacher's answers or from labels.

The tuned language model does not fit an FPGA; a small network does, and learns most of the answers
from the teacher's probabilities (Hinton, Vinyals and Dean 2015). The chip runs this student.
Not here: what the host feeds it (features.py), training in fixed point (qat.py).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trivet.hw.module import from_module
from trivet.hw.network import Network, mlp

BATCH = 64
OnEpoch = Callable[[int, float], None]  # hears the epoch, from 1, and the mean training loss


def ignore(epoch: int, loss: float) -> None:
    """For training that nobody watches."""


def distill(
    x: np.ndarray,
    targets: np.ndarray,
    hidden: Sequence[int],
    epochs: int,
    seed: int,
    on_epoch: OnEpoch = ignore,
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
    on_epoch: OnEpoch = ignore,
) -> Network:
    """Train a module where it is, on x [n, …] towards targets, float [n, classes] adding to 1.

    The teacher's probabilities give the distilled student, one-hot rows the hard-label one.
    Raises DesignError, before anything is trained, for a module that cannot go on the chip.
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
    on_epoch: OnEpoch,
) -> None:
    """Cross-entropy against soft targets, AdamW, cosine decay. The same seed, the same weights."""
    inputs, soft = torch.from_numpy(x).float(), torch.from_numpy(targets).float()
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, foreach=True)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            if len(rows) == 1 < len(x):  # batch-norm knows no variance of one row
                continue
            loss = nn.functional.cross_entropy(model(inputs[rows]), soft[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        on_epoch(epoch, total / len(x))
