"""Networks that several tests of the chip look at, and none changes."""

import pytest
import torch
from hw_reference import GREY, TARGETS, X

from trivet.hw.distill import distill
from trivet.hw.fixed import FixedNetwork
from trivet.hw.network import Network
from trivet.hw.qat import quantize

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> Network:
    """64 → 32 → 16 → 10, trained on digits."""
    return distill(X[:1400], TARGETS[:1400], [32, 16], 10, 0)


@pytest.fixture(scope="session")
def fixed(network: Network) -> FixedNetwork:
    """The same in 6-bit weights and 8-bit activations."""
    return quantize(network, X[:1400], TARGETS[:1400], 6, 8, 5, 0, input_type=GREY)
