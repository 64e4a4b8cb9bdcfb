"""DoRA: the norm from the weight itself, and gradients that are PEFT's.

Run: .venv/bin/pytest tests/unit/kernels/test_dora.py
"""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from trivet.kernels import patch
from trivet.kernels.ops.dora import dora_linear
from trivet.kernels.ops.dora.op import cpu_row_norm, row_norm_op
from trivet.kernels.ops.lora import lora_linear
from trivet.kernels.ops.weight import Weight


def test_gradients() -> None:
    torch.manual_seed(0)
    x, a, b, m = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((6, 5), (4, 5), (7, 4), 7)
    )
    w, bias = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    norm = cpu_row_norm(Weight.of(w), a, b, 1.5).detach()  # a constant, as the paper asks

    def call(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return lora_linear(x, w, bias, a, b, 1.5, gain=m / norm)

    assert torch.autograd.gradcheck(call, (x, a, b, m))
    torch.testing.assert_close(dora_linear(x, w, bias, a, b, m, 1.5), call(x, a, b, m))


def test_operator_is_sound() -> None:
    args = (torch.randn(7, 5), [], "dense", 0, torch.randn(4, 5), torch.randn(7, 4), 1.5)
    torch.library.opcheck(row_norm_op, args)


@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_pefts(bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 24, bias=bias))
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0"], use_dora=True)
    theirs = get_peft_model(net, config)
    for name, weight in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    ours = copy.deepcopy(theirs)
    patch(ours)
    x = torch.randn(10, 40)
    results = []
    for model in (theirs, ours):
        inputs = x.clone().requires_grad_()
        y = model(inputs)
        y.square().sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        results.append((y, inputs.grad, grads))
    assert len(results[0][2]) == 3
    torch.testing.assert_close(results[1], results[0])
