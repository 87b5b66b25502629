"""The average of the weights, against its unrolled sum and PyTorch's."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toys import to_torch, two_matrices

from cnn.beyond.averaging import ExponentialMovingAverage
from cnn.layer import Buffer
from cnn.linear import Linear


def test_the_average_is_its_unrolled_sum() -> None:
    rng = np.random.default_rng(1)
    network = two_matrices()
    network.to(np.float64)
    seen = [[p.value.copy() for p in network.parameters()]]
    average = ExponentialMovingAverage(network, decay=0.8)
    for _ in range(20):
        for p in network.parameters():
            p.value += rng.standard_normal(p.value.shape)
        average.update(network)
        seen.append([p.value.copy() for p in network.parameters()])
    # 0.8^20 of the first, 0.2 * 0.8^k of the one k steps before the last.
    shares = [0.8**20, *(0.2 * 0.8 ** (20 - t) for t in range(1, 21))]
    assert np.isclose(sum(shares), 1)
    for place, (name, _) in enumerate(network.named_parameters().items()):
        expected = sum(
            share * values[place]
            for share, values in zip(shares, seen, strict=True)
        )
        assert np.allclose(average.values[name], expected, atol=1e-12)


def test_the_average_is_torchs() -> None:
    rng = np.random.default_rng(2)
    network = two_matrices().to(np.float64)
    theirs = to_torch(network)
    pairs = list(zip(theirs.parameters(), network.parameters(), strict=True))
    average = ExponentialMovingAverage(network, decay=0.9)
    averaged = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(theirs)  # the first call takes the start
    for _ in range(20):
        for p in network.parameters():
            p.value += rng.standard_normal(p.value.shape)
        for twin, p in pairs:
            twin.data = torch.tensor(p.value)
        average.update(network)
        averaged.update_parameters(theirs)
    for ours, twin in zip(
        average.values.values(), averaged.module.parameters(), strict=True
    ):
        assert np.abs(ours - twin.detach().numpy()).max() < 1e-12


def test_it_leaves_the_network_alone_and_fits_back_into_it() -> None:
    network = two_matrices()
    average = ExponentialMovingAverage(network, decay=0.5)
    first = [p.value.copy() for p in network.parameters()]
    for p in network.parameters():
        p.value += 2
    average.update(network)
    for p, before in zip(network.parameters(), first, strict=True):
        assert np.array_equal(p.value, before + 2)
    network.load_state_dict(average.values, "the average")
    for p, before in zip(network.parameters(), first, strict=True):
        assert np.allclose(p.value, before + 1)
        assert p.value.dtype == np.float32


def test_buffers_are_taken_as_they_are() -> None:
    class Counting(Linear):
        def __init__(self) -> None:
            super().__init__(1, 1, rng=np.random.default_rng(0))
            self.seen = Buffer(np.array([3]))

    layer = Counting()
    weight = layer.weight.value.copy()
    average = ExponentialMovingAverage(layer, decay=0.5)
    layer.seen.value[...] = 7
    layer.weight.value += 2
    average.update(layer)
    assert average.values["seen"] == [7]
    assert np.allclose(average.values["weight"], weight + 1)


def test_with_decay_zero_it_is_the_network_itself() -> None:
    network = two_matrices()
    average = ExponentialMovingAverage(network, decay=0)
    network.parameters()[0].value += 1
    average.update(network)
    for name, value in network.state_dict().items():
        assert np.allclose(average.values[name], value, atol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, np.nan])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= decay < 1\. To"):
        ExponentialMovingAverage(two_matrices(), decay)
