"""Training within fixed-point types repairs what rounding and zeros cost.

Run: .venv/bin/pytest tests/unit/hw/test_qat.py
"""

import copy

import numpy as np
import pytest
import torch
from hw_reference import GREY, LABELS, TARGETS, X, chain, exact

from trivet.hw.errors import DesignError
from trivet.hw.fixed import Fixed, FixedNetwork
from trivet.hw.network import Network
from trivet.hw.qat import quantize


def test_few_bits_cost_little_and_training_repairs(network: Network, fixed: FixedNetwork) -> None:
    def right(model: Network | FixedNetwork) -> float:
        return (model.logits(X[1400:]).argmax(1) == LABELS[1400:]).mean()

    assert right(fixed) > right(network) - 0.02
    untrained, trained = (
        quantize(network, X[:1400], TARGETS[:1400], 3, 3, epochs, 0, input_type=GREY)
        for epochs in (0, 5)
    )
    assert right(trained) > right(untrained)
    again = quantize(network, X[:1400], TARGETS[:1400], 6, 8, 5, 0, input_type=GREY)
    assert (again.logits(X) == fixed.logits(X)).all()


def test_bits_may_differ_by_layer(network: Network) -> None:
    coarse = quantize(network, X[:200], TARGETS[:200], [3, 4, 7], [5, 6, 6], 0, 0, input_type=GREY)
    assert [layer.weight.width for layer in coarse.layers] == [3, 4, 7]
    assert [layer.output.width for layer in coarse.layers[:2]] == [5, 6]
    words, x = chain("ids")
    bits = {"weight_bits": [4, 5, 6, 7], "activation_bits": [6, 7, 8, 9]}
    ids = Fixed(4, 4, signed=False)
    coarse = quantize(
        words, x[:50], np.eye(4)[x[:50, 0] % 4], **bits, epochs=0, seed=0, input_type=ids
    )
    assert [coarse.layers[at].weight.width for at in (0, 1, 2, 4)] == [4, 5, 6, 7]
    assert [layer.output.width for layer in coarse.layers[:4]] == [4, 7, 8, 8 + 3]  # 6 positions
    with pytest.raises(DesignError, match=r"weight_bits = \[3, 4\]: the network has 3 layers"):
        quantize(network, X[:50], TARGETS[:50], [3, 4], 6, 0, 0, input_type=GREY)
    with pytest.raises(DesignError, match=r"lower weight_bits"):
        quantize(network, X[:50], TARGETS[:50], 26, 26, 0, 0, input_type=GREY)


def test_the_smallest_weights_become_zero_and_training_repairs(network: Network) -> None:
    def pruned(epochs: int, sparsity: float | list[float]) -> FixedNetwork:
        arguments = X[:1400], TARGETS[:1400], 4, 5, epochs, 0
        return quantize(network, *arguments, input_type=GREY, sparsity=sparsity)

    def right(model: FixedNetwork) -> float:
        return (model.logits(X[1400:]).argmax(1) == LABELS[1400:]).mean()

    at_once, slowly = pruned(0, 0.7), pruned(10, 0.7)
    for model in (at_once, slowly):
        for w in model.weights:
            assert (w == 0).sum() >= round(0.7 * w.size)
    assert right(slowly) > right(at_once) + 0.1
    largest = network.weights[0].abs().flatten().topk(round(0.3 * 2048)).indices
    assert not np.delete(at_once.weights[0].reshape(-1), largest).any()
    zeros = [(w == 0).mean() for w in pruned(0, [0.9, 0.0, 0.5]).weights]
    assert zeros[0] > 0.89 and zeros[1] < 0.5 <= zeros[2]
    with pytest.raises(DesignError, match=r"^sparsity = \[0.9, 0.0\]: the network has 3"):
        pruned(0, [0.9, 0.0])


def test_a_channel_may_have_a_scale_of_its_own(network: Network) -> None:
    uneven = copy.deepcopy(network)
    with torch.no_grad():  # the same answers, but half of the units have small weights
        uneven.weights[0][::2] /= 8
        uneven.biases[0][::2] /= 8
        uneven.weights[1][:, ::2] *= 8

    def wrong(**how: bool) -> float:
        coarse = quantize(
            uneven, X[:1400], TARGETS[:1400], [4, 9, 9], 12, 0, 0, **how, input_type=GREY
        )
        assert [exact(coarse, row) for row in X[:3]] == coarse.logits(X[:3]).tolist()
        return np.abs(coarse.logits(X) - network.logits(X)).mean()

    assert wrong(per_channel=True) < 0.7 * wrong()
    coarse = quantize(
        uneven, X[:1400], TARGETS[:1400], 4, 8, 2, 0, per_channel=True, input_type=GREY
    )
    for weight, layer in zip(coarse.weights, coarse.layers, strict=True):
        assert layer.weight.low <= weight.min() and weight.max() <= layer.weight.high
        assert layer.weight.width <= 4 + 4
        step = np.gcd.reduce(weight, axis=1, keepdims=True)
        assert (np.abs(weight // step) <= 8).all()  # each row is 4 bits wide in its own scale
