"""The architectures that differ most answer the contract as docs/models.md says.

Run: pytest tests/sweep/test_models_sweep.py
"""

import pytest
import torch
from architectures import ARCHITECTURES, SAMPLE
from models import outcome, read, stages_of

PAIRS = [(name, task) for name, task in read() if name in SAMPLE]


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_an_architecture_works_or_is_refused_as_written(name: str, task: str) -> None:
    torch.set_num_threads(1)
    stage, why = outcome(ARCHITECTURES[name], task)
    cells = stages_of(stage)
    assert f"| {name} | {task} | {' | '.join(cells)} |" in read()[name, task], why
