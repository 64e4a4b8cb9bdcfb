"""The trial before the first step: mistakes on purpose are caught, by name, and nothing else moves.

Run: pytest tests/unit/kernels/test_trial.py
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import CLASSIFY, GENERATE, adapted, batches
from architectures import ARCHITECTURES
from torch import Tensor

from trivet.config.data import Data
from trivet.kernels.peft import kinds, probe
from trivet.plugins import TASKS
from trivet.records.trial import Trial
from trivet.tasks.example import Example
from trivet.tasks.tokenizer import load_tokenizer
from trivet.tuning import base as bases
from trivet.tuning.methods.lora import Lora
from trivet.tuning.trial import again, trial

LLAMA = {"lora": 14, "loss": 1, "rms_norm": 5, "rope": 2, "swiglu": 2}


class Skewed(torch.autograd.Function):
    """The value as it is, its gradient larger by a hundredth: no probe of values sees that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 1.01 * grads[0]


def first(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return (change(x[0]), *x[1:]) if isinstance(x, tuple) else change(x)


MISTAKES = {
    "value": lambda x: 1.001 * x,
    "gradient": lambda x: Skewed.apply(x),
    "crash": lambda x: 1 / 0,
    "crash in tuning": lambda x: 1 / 0 if torch.is_grad_enabled() else x,
    "no number": lambda x: x * float("nan"),
}
OPERATORS = {
    "lora_linear": "lora: Linear",
    "rms_norm": "rms_norm: LlamaRMSNorm",
    "swiglu": "swiglu: LlamaMLP",
    "rope": "rope: LlamaAttention",
    "linear_cross_entropy": "loss: LlamaForCausalLM",
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_operator_falls_back_alone(
    operator: str, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, change = getattr(kinds, operator), MISTAKES[mistake]
    monkeypatch.setattr(kinds, operator, lambda *a, **k: first(right(*a, **k), change))
    model = adapted(ARCHITECTURES["llama"], GENERATE)
    verdict = trial(model, batches(GENERATE, 0), half=False)
    name = OPERATORS[operator]
    kind = name.split(":")[0]
    assert {*verdict.fallbacks} == {name} and verdict.packed
    assert verdict.kernels == {k: n for k, n in LLAMA.items() if k != kind} | {"attention": 1}
    assert name in verdict.lines()[0]


def test_rows_that_leak_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that leaks, which the probe did not see, shows in the gradients."""
    monkeypatch.setattr(probe, "packing", lambda model, pack: pack())
    verdict = trial(adapted(ARCHITECTURES["lfm2"], GENERATE), batches(GENERATE, 0), half=False)
    assert not verdict.packed and "rows end to end" in verdict.fallbacks["packing"]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["classify", "generate"])
def test_the_packaged_base_runs_on_kernels(small_base: Path, name: str, half: bool) -> None:
    """Two of its layers: 7 linear layers, two norms and a gate each, and a norm at the end."""
    task, labels = TASKS[name], ["off", "on"]
    question = [{"role": "user", "content": "Is the lamp on?"}]
    rows: list[dict[str, Any]] = [
        {"text": f"lamp {n}", "label": labels[n % 2]}
        | {"messages": [*question, {"role": "assistant", "content": "Yes. " * (n + 1)}]}
        for n in range(8)
    ]
    data = Data(source="none", task=name)
    examples = task.tokenize(rows, data, labels, load_tokenizer(small_base)).examples
    dtype = torch.bfloat16 if half else torch.float32
    model = Lora().adapt(bases.load(small_base, task, labels, dtype), task)
    for weight in model.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    verdict = trial(model, [examples[:4], examples[4:]], half)
    talks = name == "generate"
    wanted = LLAMA | {"attention": 1} if talks else {k: LLAMA[k] for k in LLAMA if k != "loss"}
    assert (verdict.kernels, verdict.fallbacks, verdict.packed) == (wanted, {}, talks)


def test_it_leaves_no_trace() -> None:
    """Weights, gradients, flags and the random states; zero matrices are zero again."""
    model = adapted(ARCHITECTURES["mixtral"], GENERATE)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    model.get_submodule("base_model.model.model.layers.0").eval()
    before = {n: w.clone() for n, w in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    states = torch.get_rng_state(), random.getstate(), model.config.use_cache
    trial(model, batches(GENERATE, 0), half=False)
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())
    assert all(w.grad is None for w in model.parameters())
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), model.config.use_cache) == states[1:]


def test_an_earlier_verdict_is_taken_as_it_is() -> None:
    model = adapted(ARCHITECTURES["llama"], GENERATE)
    fallbacks = {"rms_norm: LlamaRMSNorm": "said before", "packing": "said before"}
    again(model, Trial(kernels={}, fallbacks=fallbacks, packed=False))
    forwards = {type(m).__name__ for m in model.modules() if "forward" in m.__dict__}
    assert forwards == {"Linear", "LlamaMLP", "LlamaAttention", "LlamaForCausalLM"}
    assert model.config._attn_implementation == "sdpa"


def test_where_stock_does_not_run_nothing_is_put() -> None:
    """The model's own error is for the first step to raise."""
    model = adapted(ARCHITECTURES["llama"], CLASSIFY)
    outside = [[Example([9999], [0], [0])]]
    verdict = trial(model, outside, half=False)
    assert not verdict.kernels and "IndexError" in verdict.fallbacks["lora: Linear"]
