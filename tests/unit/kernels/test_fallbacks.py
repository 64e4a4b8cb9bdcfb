"""Twenty architectures that differ most: what has no kernel stays stock, by name, and learns right.

All of them: tests/sweep/test_architecture_sweep.py.
"""

import pytest
import torch
from adapted_models import CLASSIFY, GENERATE, adapted, check_architecture, step
from architectures import ARCHITECTURES, SAMPLE
from torch import Tensor

from trivet.kernels import patch
from trivet.tasks.example import Example

# What each changed, or ended in the middle of tuning with, before its forward was tried.
KNOWN = {
    "falcon": {"packing"},  # causality was lost
    "stablelm": {"packing"},
    "nemotron": {"packing"},
    "lfm2": {"packing"},
    "granitemoehybrid": {"packing"},
    "bamba": {"packing"},
    "minimax": {"packing"},
    "falcon_h1": {"packing", "swiglu: FalconH1MLP"},  # its multipliers were lost
    "mixtral": {"loss: MixtralForCausalLM"},  # its router's loss was lost
    "gpt_oss": {"packing", "rope: GptOssAttention"},
    "gptj": {"rope: GPTJAttention"},
    "codegen": {"rope: CodeGenAttention"},
    "jamba": {"packing"},  # a strided input raised
    "recurrent_gemma": {"packing", "loss: RecurrentGemmaForCausalLM", "swiglu: RecurrentGemmaMlp"},
}


@pytest.mark.parametrize("name", sorted({*SAMPLE, *KNOWN}))
def test_it_learns_as_stock(name: str) -> None:
    architecture = ARCHITECTURES[name]
    verdict = check_architecture(architecture, GENERATE if architecture.generates else CLASSIFY)
    assert KNOWN.get(name, set()) <= {*verdict.fallbacks}
    assert all(verdict.fallbacks.values())
    assert name in ("bloom", "gpt2", "bert", "modernbert") or verdict.kernels


@pytest.mark.parametrize("name", ["falcon", "llama", "mistral", "gpt_oss", "phi3"])
def test_a_token_moves_none_before_it(name: str) -> None:
    model = adapted(ARCHITECTURES[name], GENERATE).eval()
    patch(model)
    ids = torch.arange(3, 23)[None]
    other = torch.cat([ids[:, :-1], ids[:, -1:] + 1], 1)
    with torch.no_grad():
        before, after = (model(input_ids=i).logits[0] for i in (ids, other))
    moved = (before - after).abs().amax(-1)
    assert moved[:-1].max() < 1e-5 < 1e-2 < moved[-1]  # a mixture groups its tokens anew


@pytest.mark.parametrize("name", ["llama", "mistral", "lfm2", "bamba", "minimax", "stablelm"])
def test_rows_see_nothing_of_each_other(name: str) -> None:
    """The gradient of one row's loss is the same whatever the row beside it holds."""
    model = adapted(ARCHITECTURES[name], GENERATE)
    patch(model)

    def beside(first: int) -> Tensor:
        silent = Example([*range(first, first + 12)], [3], [-1])
        learned = Example([*range(100, 115)], [*range(4, 14)], [*range(105, 115)])
        return step(model, [silent, learned])

    assert torch.allclose(beside(10), beside(200), rtol=0, atol=1e-6)  # of a norm of about 5
