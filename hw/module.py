"""A user's own torch module, read as the chain of steps that the chip has.

torch.fx lists what the module does, and `chain` makes steps of that or refuses it by name, before
anything is built. Whatever is accepted is then run beside the module, so that no order of axes is
wrong in silence.
Not here: branches, recurrence, attention, pooling, padding: a chain of the steps in `network.py`
is all there is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from trivet.hw.chain import ALLOWED, Chain
from trivet.hw.errors import DesignError
from trivet.hw.network import Network

TOLERANCE = 1e-4  # of the largest logit: two orders of the same float32 sums


class Mean(nn.Module):
    """The mean over positions, for nn.Sequential: [n, length, channels] to [n, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-2)


class Sum(nn.Module):
    """The sum over positions, for nn.Sequential: [n, length, channels] to [n, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-2)


def from_module(module: nn.Module, shape: Sequence[int]) -> Network:
    """The chain that gives the module's logits, as in its `eval` mode.

    `shape` is that of one row as the module gets it: (features,) numbers, (length, channels)
    numbers (a module that starts with Conv1d transposes them first), (length,) ids when it starts
    with an Embedding. Raises DesignError, which names the operation that cannot go on the chip, and
    what could.
    """
    if isinstance(module, Network):
        return module
    if not list(module.children()):
        module = nn.Sequential(module)  # else a lone Linear would be traced into
    try:
        graph = fx.Tracer().trace(module)
    except Exception as e:  # whatever the user's forward does with a traced value
        raise DesignError(
            f"its forward could not be traced ({e}). It must be one chain of operations without "
            f"branches or loops over values. {ALLOWED}.",
            parameter="module",
        ) from e
    chain = Chain(module, shape, graph)
    x = chain.rows()
    expected = _eval_logits(module, x)
    network = chain.walk()
    logits = network(x.float().reshape(len(x), *network.shape))
    if not torch.allclose(
        logits, expected.float(), rtol=0, atol=TOLERANCE * expected.abs().max().item()
    ):
        raise DesignError(
            "read as a chain it gives other logits than by itself, so something in it is not what "
            f"its name says (a hook, a parametrization?). {ALLOWED}.",
            parameter="module",
        )
    return network


@torch.no_grad()
def _eval_logits(module: nn.Module, x: Tensor) -> Tensor:
    training = module.training
    try:
        return module.eval()(x)
    except Exception as e:  # torch's own words say which sizes do not fit
        raise DesignError(
            f"it does not take rows of shape {tuple(x.shape[1:])}: {e}. Make its first layer fit "
            "the data: [n, features], [n, length, channels] or ids [n, length].",
            parameter="module",
        ) from e
    finally:
        module.train(training)
