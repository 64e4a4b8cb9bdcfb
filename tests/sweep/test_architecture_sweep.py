"""Every architecture of transformers that reads text: on kernels as stock, or stock by name.

The unit tier has twenty. Run: pytest tests/sweep/test_architecture_sweep.py
"""

import pytest
from adapted_models import CLASSIFY, GENERATE, adapted, batches, check_architecture, step
from architectures import ARCHITECTURES

# Stock PEFT does not tune them: a mixture's grouped layer, quantised layers, an update in place.
DOES_NOT_RUN = {"deepseek_v4", "ibert", "rwkv"}
CASES = [
    (name, head)
    for name, architecture in ARCHITECTURES.items()
    for head, there in ((GENERATE, architecture.generates), (CLASSIFY, architecture.classifies))
    if there
]


def test_there_are_enough_of_them() -> None:
    assert len({name for name, _ in CASES} - DOES_NOT_RUN) > 150


@pytest.mark.parametrize("name, head", CASES)
def test_on_kernels_it_learns_as_stock(name: str, head: str) -> None:
    if name in DOES_NOT_RUN:
        with pytest.raises((RuntimeError, ValueError)):
            step(adapted(ARCHITECTURES[name], head), batches(head, 0)[0])
        return
    verdict = check_architecture(ARCHITECTURES[name], head)
    assert verdict.packed or head == CLASSIFY or "packing" in verdict.fallbacks
