"""The kernels against stock PEFT, on the run's own model and rows, before the first step.

The loss and the gradient of every weight that will be trained, stock and on kernels, of rows that
are padded and, for a language model, of rows that lie end to end. What differs, or raises, stays
stock, by its name. The weights, the gradients and the random state are left as they were.

A trained weight that is zero, as LoRA's B at the start, is drawn at random for the trial: the
gradient of A goes through it, and all mistakes would be zero as well. Dropout is off: kernels draw
their masks in their own order.

Tolerance: the stock model's own float noise. It is run a second time with each module's output
moved by a rounding, eps/2 of the dtype that it computes in, or √K·eps/2 of float32 in which K
products are added up: random roundings as in CESTAC (Vignes 1993). Kernels round up to four times
where a module does once, and a run is a sample: 8 times that noise. Before anything is said to
differ, three samples more are taken: a router that chooses another expert is noise of a rare kind.
On 254 small models of 176 architectures kernels differ by at most 1.4 times the noise in float32,
and in bfloat16 by .9 (median), 1.9 (95 %), and more for mixtures of experts alone.

Not covered: dropout of LoRA, whose masks differ by design; more than two rows of a batch.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn

from trivet.kernels.peft.patch import PACKING, Patched, patch, unpatch
from trivet.kernels.peft.probe import raised
from trivet.records.trial import Trial
from trivet.tasks.example import Example
from trivet.tuning.batch import device_of
from trivet.tuning.loss import loss_of

ROWS = 2  # of a batch: kernels know no rows, and stock PEFT must hold the logits of all tokens
MARGIN = 8.0  # times the noise
SAMPLES = 4  # of the noise, at the most
ZERO_STD = 0.02  # of what zero weights are drawn with: about a tenth of the layer's own output


def trial(model: PeftModel, batches: list[list[Example]], half: bool) -> Trial:
    """Put under `model` the kernels that make no difference on `batches`; returns what they are.

    `half`: compute in bfloat16, the trained weights being float32.
    """
    with _still(model), _drawn(model):
        patched = patch(model)
        compare = _comparison(model, batches, half)
        if isinstance(compare, str):
            differing = dict.fromkeys(patched.names, compare)
        else:
            differing = compare.fallbacks(patched) if compare else {}
    fallbacks = patched.fallbacks | differing
    kernels = patch(model, fallbacks, probed=True)
    return Trial(
        kernels=dict(sorted(kernels.kinds.items())),
        fallbacks=dict(sorted(fallbacks.items())),
        packed=PACKING in kernels.names,
        compared=compare is not None,
    )


def again(model: PeftModel, known: Trial) -> None:
    """Put under `model` what an earlier trial of the same model left there."""
    patch(model, known.fallbacks, probed=True)


class Step(NamedTuple):
    """Losses [batches], and the gradients, summed over the batches, one a weight; float32."""

    losses: Tensor
    gradients: list[Tensor]


class Comparison:
    """Stock PEFT's step on some batches, its float noise, and what differs from it by more."""

    def __init__(self, model: PeftModel, batches: list[list[Example]], half: bool) -> None:
        unpatch(model)
        self.model, self.batches, self.half = model, batches, half
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.eps = torch.finfo(torch.bfloat16 if half else torch.float32).eps
        self.stock = self.step()
        self.noise = [0.0] * (1 + len(self.weights))
        self.samples = 0
        self.sample()

    def step(self) -> Step:
        losses = []
        self.model.zero_grad(set_to_none=True)
        for batch in self.batches:
            with torch.autocast(device_of(self.model).type, torch.bfloat16, enabled=self.half):
                loss = loss_of(self.model, batch)
            loss.backward()
            losses.append(loss.detach().float())
        gradients = [
            torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights.values()
        ]
        self.model.zero_grad(set_to_none=True)
        return Step(torch.stack(losses), gradients)

    def sample(self) -> None:
        """Float noise once more: for each of the step's parts the largest of all samples."""
        with _roundings(self.model, self.samples):
            step = self.step()
        pairs = zip(self.noise, _parts(step), _parts(self.stock), strict=True)
        self.noise = [max(known, float((a - b).norm())) for known, a, b in pairs]
        self.samples += 1

    def fallbacks(self, patched: Patched) -> dict[str, str]:
        """What makes a difference, by name, and which. Kinds are tried whole, then by class."""
        known = {*patched.names, *patched.fallbacks}
        padded = {*patched.names} - {PACKING}
        out: dict[str, str] = {}
        if self.difference(known - padded):
            on: set[str] = set()
            for _, kind in groupby(sorted(padded), lambda name: name.split(":")[0]):
                names = set(kind)
                if len(names) == 1 or self.difference(known - on - names):
                    reasons = {n: self.difference(known - on - {n}) for n in sorted(names)}
                    out |= {name: reason for name, reason in reasons.items() if reason}
                on |= names - {*out}
        if PACKING in patched.names and (
            reason := self.difference({*patched.fallbacks, *out}, "rows end to end: ")
        ):
            out[PACKING] = reason
        return out

    def difference(self, leave: Collection[str], where: str = "") -> str | None:
        """What differs from stock by more than float noise with all kernels but `leave`, or None"""
        patch(self.model, leave, probed=True)
        try:
            step = self.step()
        except Exception as error:
            return f"{where}{raised(error)}"
        finally:
            unpatch(self.model)
        reason = self._beyond_noise(step)
        while reason and self.samples < SAMPLES:
            self.sample()
            reason = self._beyond_noise(step)
        return reason and f"{where}{reason}"

    def _beyond_noise(self, step: Step) -> str | None:
        names = ["the loss", *(f"the gradient of {name}" for name in self.weights)]
        whole = float(torch.stack([g.norm() for g in self.stock.gradients]).norm())
        worst, words = 1.0, None
        parts = zip(names, _parts(step), _parts(self.stock), self.noise, strict=True)
        for name, ours, stock, noise in parts:
            size, error = float(stock.norm()), float((ours - stock).norm())
            # one rounding of the result itself; of what is zero, of the whole gradient's
            noise = max(noise, self.eps * size + self.eps**2 * whole)
            if not error <= worst * MARGIN * noise:
                worst = error / (MARGIN * noise)
                words = (
                    f"{name} differs by {error / size:.1g} of its size, noise is {noise / size:.1g}"
                )
        return words


def _comparison(
    model: PeftModel, batches: list[list[Example]], half: bool
) -> Comparison | str | None:
    """On two rows of each batch, of its lengths; on one where stock PEFT has no room
    in the GPU's memory, and None where it has none for a row. A reason where it does not run.
    """
    for count in range(ROWS, 0, -1):
        few = [batch[:: max(1, (len(batch) - 1) // max(1, count - 1))][:count] for batch in batches]
        try:
            return Comparison(model, few, half)
        except torch.OutOfMemoryError:
            continue
        except Exception as error:
            return f"stock PEFT did not run on the first rows: {raised(error)}"
    return None


def _parts(step: Step) -> list[Tensor]:
    return [step.losses, *step.gradients]


@contextmanager
def _still(model: PeftModel) -> Iterator[None]:
    """Without dropout, but on the kernels' loss; flags and the random state are put back."""
    flags = {m: m.training for m in model.modules()}
    try:
        with torch.random.fork_rng():
            model.eval()
            model.get_base_model().training = True
            yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextmanager
def _drawn(model: nn.Module) -> Iterator[None]:
    """Trained weights that are zero, drawn at random; zero again after."""
    draw = torch.Generator().manual_seed(0)
    zeros = [w for w in model.parameters() if w.requires_grad and not w.any()]
    for weight in zeros:
        weight.data.copy_(ZERO_STD * torch.randn(weight.shape, generator=draw))
    try:
        yield
    finally:
        for weight in zeros:
            weight.data.zero_()


@contextmanager
def _roundings(model: nn.Module, seed: int) -> Iterator[None]:
    """Each module's output, and so its gradient, moved by as much as it may be rounded."""
    draw = torch.Generator(device_of(model)).manual_seed(seed)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        products = max(max(p.shape) for p in module.parameters() if p.dim())  # forward or backward
        eps = torch.finfo(output.dtype).eps, products**0.5 * torch.finfo(torch.float32).eps
        move = torch.rand(output.shape, generator=draw, device=output.device) * 2 - 1
        return (output.float() * (1 + max(eps) / 2 * move)).to(output.dtype)

    leaves = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    handles = [m.register_forward_hook(hook) for m in leaves if not isinstance(m, nn.Embedding)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
