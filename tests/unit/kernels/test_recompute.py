"""What is made again in backward is not held until then, and has the same gradients.

Run: .venv/bin/pytest tests/unit/kernels/test_recompute.py
"""

import weakref

import torch

from trivet.kernels.peft.recompute import recomputable, recompute_in_backward


def test_what_can_be_made_again_is_forgotten() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    w = torch.randn(4, 4, requires_grad=True)
    calls = []

    def make() -> torch.Tensor:
        calls.append(1)
        return x.sin()

    y = recomputable(make(), make)
    with recompute_in_backward(y):
        loss = (y.view(5, 4) @ w).square().sum()
    reference = weakref.ref(y)
    del y
    assert reference() is None and len(calls) == 1
    ours = torch.autograd.grad(loss, (x, w))
    assert len(calls) == 2
    torch.testing.assert_close(ours, torch.autograd.grad((x.sin() @ w).square().sum(), (x, w)))


def test_without_a_note_nothing_changes() -> None:
    x = torch.randn(3, requires_grad=True)
    with recompute_in_backward(x):
        assert torch.autograd.grad((x * x).sum(), x)[0].equal(2 * x)
