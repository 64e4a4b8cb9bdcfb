"""The gates that a shared mistake cannot pass: a stage asked without Trivet, and each row alone.

They are silent where they hold; the table has their figures. `parity.py` puts them beside a stage's
own gate.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trivet.backends.gate import Verdict
from trivet.evaluate.stock import why_none

if TYPE_CHECKING:
    from trivet.backends.backend import Backend
    from trivet.config.gates import Gates
    from trivet.config.recipe import Recipe
    from trivet.records.parity import Stage


def judge(verdict: Verdict, stage: "Stage", backend: "Backend", gates: "Gates") -> Verdict:
    """A stage's verdict, and these."""
    for gate, measured in _broken(stage, backend, gates):
        words = "; ".join(filter(None, (verdict.gate, gate)))
        verdict = Verdict(words, "; ".join(filter(None, (verdict.measured, measured))), False)
    return verdict


def _broken(stage: "Stage", backend: "Backend", gates: "Gates") -> Iterator[tuple[str, str]]:
    stock, alone = stage.stock, stage.invariance
    # What int8 loses to rounding it may also lose to the rounding of another batch, and no more.
    lost = stage.max_abs_diff if backend.quantises else None
    if stock and (stock.failure or stock.agreement < gates.stock_agreement):
        near = lost is not None and not stock.failure and (stock.max_abs_diff or 0.0) <= lost
        if not (near and stock.equal >= (stage.agreement or 0.0) * stock.answers):
            share = f"on {gates.stock_agreement:.4g} of the rows"
            yield f"the folder's verify.py says the same {share}", stock.words
    if alone and not alone.holds and not (lost is not None and alone.max_abs_diff <= lost):
        yield "a row's logits do not depend on the rows beside it", alone.words


def notes(recipe: "Recipe", backends: "Sequence[Backend]", stages: "Sequence[Stage]") -> list[str]:
    """What was not checked, and why. That a chip has no libraries of others goes without saying."""
    reasons: dict[str, list[str]] = {}
    for backend in backends:
        if backend.snippet and (why := why_none(recipe, backend)):
            reasons.setdefault(f"not asked without Trivet: {why}", []).append(backend.name)
    for stage in stages:
        if stage.invariance and stage.invariance.note:
            reasons.setdefault(stage.invariance.note, []).append(stage.backend)
    return [f"{', '.join(names)}: {why}." for why, names in reasons.items()]
