"""The one training loop.

It knows examples (token ids, answer positions, targets) and a model with some weights left
trainable; techniques and kernels differ in the layers, not here. Its whole state lies in one
checkpoint, so that a run killed at any moment goes on with the same losses as one that was not.

Not covered: more than one process.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import get_cosine_schedule_with_warmup

from trivet.artifacts.artifact import Watch
from trivet.config.method import Method
from trivet.records.score import Point
from trivet.records.trial import Trial
from trivet.tasks.example import Example
from trivet.tuning.batch import device_of
from trivet.tuning.loss import loss_of
from trivet.tuning.trial import again, trial

CHECKPOINT_SECONDS = 30


def batches(examples: list[Example], size: int, seed: int) -> list[list[Example]]:
    """Shuffled batches of rows of like length: sorted within chunks of eight batches."""
    rng = random.Random(seed)
    rows = rng.sample(examples, len(examples))
    out: list[list[Example]] = []
    for i in range(0, len(rows), 8 * size):
        chunk = sorted(rows[i : i + 8 * size], key=lambda e: len(e.ids))
        out += [chunk[j : j + size] for j in range(0, len(chunk), size)]
    rng.shuffle(out)
    return out


@dataclass
class State:
    """Where the loop stands, beside the weights and the optimiser."""

    epoch: int = 0
    step: int = 0  # within the epoch
    curve: list[Point] = field(default_factory=list)
    best: float = float("inf")
    stale: int = 0
    stopped: bool = False


@torch.no_grad()
def valid_loss(model: PeftModel, examples: list[Example], size: int) -> float:
    """Mean cross-entropy for each answer over `examples`, evaluation mode."""
    model.eval()
    accum, count = 0.0, 0
    ordered = sorted(examples, key=lambda e: len(e.ids))
    for i in range(0, len(ordered), size):
        batch = ordered[i : i + size]
        n = sum(t >= 0 for e in batch for t in e.targets)
        accum += loss_of(model, batch).item() * n
        count += n
    model.train()
    return accum / count


def fit(
    model: PeftModel,
    train: list[Example],
    valid: list[Example],
    tune: Method,
    half: bool,
    folder: Path,
    watch: Watch,
) -> list[Point]:
    """Train `model`; leaves the best adapter in `folder`/best and returns the curve.

    `half`: compute in bfloat16, the trained weights staying float32. Called again with the same
    arguments after a kill, it goes on from the last checkpoint in `folder`.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    if tune.kernels == "trivet":
        _kernels(model, _order(train, tune, 0)[:2], half, folder, watch)
    optimizer = torch.optim.AdamW(weights, lr=tune.learning_rate, weight_decay=0.01)
    per_epoch = len(batches(train, tune.batch, 0))
    steps = per_epoch * tune.epochs
    schedule = get_cosine_schedule_with_warmup(optimizer, int(tune.warmup * steps), steps)
    checkpoint = folder / "checkpoint.pt"
    state = _restore(checkpoint, weights, optimizer, schedule, tune.seed)
    autocast = partial(torch.autocast, device_of(model).type, torch.bfloat16, enabled=half)
    saved = time.monotonic()
    model.train()
    for epoch, step, batch in _steps(train, tune, state):
        state.epoch, state.step = epoch, step
        with autocast():
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, tune.clip)
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        done = epoch * per_epoch + state.step
        valued = None
        ended = state.step == per_epoch
        if ended:
            with autocast():
                valued = valid_loss(model, valid, 4 * tune.batch)
            state.stopped = _stop_early(state, valued, tune.patience)
            if state.stale == 0:
                model.save_pretrained(str(folder / "best"))
            state.epoch, state.step = epoch + 1, 0
        point = Point(
            step=done,
            epoch=epoch + 1,
            train_loss=loss.item(),
            valid_loss=valued,
            learning_rate=rate,
        )
        state.curve.append(point)
        watch.on_point(point)
        watch.on_progress(done / steps)
        if ended or time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save(checkpoint, weights, optimizer, schedule, state)
            saved = time.monotonic()
    checkpoint.unlink(missing_ok=True)
    return state.curve


def _kernels(
    model: PeftModel, first: list[list[Example]], half: bool, folder: Path, watch: Watch
) -> None:
    """The kernels that make no difference on the first batches; a killed run's are taken again."""
    known = Trial.read_if_there(folder)
    if known:
        again(model, known)
    else:
        known = trial(model, first, half)
        known.write(folder)
    for line in known.lines():
        watch.on_note(line)


def _order(train: list[Example], tune: Method, epoch: int) -> list[list[Example]]:
    return batches(train, tune.batch, tune.seed * 100_003 + epoch)


def _steps(
    train: list[Example], tune: Method, state: State
) -> Iterator[tuple[int, int, list[Example]]]:
    """The batches still to come, with epoch and step; ends early when `state.stopped`."""
    first = state.step
    for epoch in range(state.epoch, tune.epochs):
        order = _order(train, tune, epoch)
        for step in range(first, len(order)):
            if state.stopped:
                return
            yield epoch, step, order[step]
        first = 0


def _stop_early(state: State, value: float, patience: int) -> bool:
    """Count the epochs since the best validation loss; `state.stale` is 0 where it is this one."""
    if value < state.best:
        state.best, state.stale = value, 0
    else:
        state.stale += 1
    return state.stale >= patience


def _save(path: Path, weights: list[Any], optimizer: Any, schedule: Any, state: State) -> None:
    part = path.with_suffix(".part")
    content = {
        "weights": [w.data for w in weights],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all(),
        "state": vars(state) | {"curve": [point.model_dump() for point in state.curve]},
    }
    torch.save(content, part)
    part.replace(path)


def _restore(path: Path, weights: list[Any], optimizer: Any, schedule: Any, seed: int) -> State:
    if not path.exists():
        torch.manual_seed(seed)
        return State()
    content = torch.load(path, weights_only=True)
    for weight, value in zip(weights, content["weights"], strict=True):
        weight.data.copy_(value)
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"]:
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    curve = [Point(**point) for point in content["state"].pop("curve")]
    return State(**content["state"], curve=curve)
