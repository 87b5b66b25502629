"""Dropout, against PyTorch with the same mask, and against its laws."""

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from toys import digits, steps_beside_torch, to_torch

from cnn import (
    SGD,
    Flatten,
    Linear,
    ReLU,
    Sequential,
    check_gradients,
    load_arrays,
    predict,
    train,
)
from cnn.beyond.dropout import Dropout, dropout, dropout_backward


seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 0.95)


def masked(seed, shape, p):
    rng = np.random.default_rng(seed)
    x, g = rng.standard_normal((2, *shape))
    return x, g, rng.random(shape) >= p


@given(seeds, array_shapes(max_dims=4, max_side=6), shares)
def test_forward_and_backward_are_torchs_with_the_same_mask(seed, shape, p):
    x, g, kept = masked(seed, shape, p)
    theirs = torch.tensor(x, requires_grad=True)
    mask = torch.tensor(kept / (1 - p))
    y = torch.mul(theirs, mask)
    y.backward(torch.tensor(g))
    assert np.allclose(dropout(x, kept, p), y.detach(), atol=1e-10)
    grad = dropout_backward(g, kept, p)
    assert np.allclose(grad, theirs.grad, atol=1e-10)


@given(seeds, array_shapes(max_dims=4, max_side=6), shares)
def test_the_gradient_is_the_measured_one_for_a_held_mask(seed, shape, p):
    class Held(Dropout):
        def forward(self, x):
            self.rng = np.random.default_rng(seed)
            return super().forward(x)

    x, _, _ = masked(seed, shape, p)
    rng = np.random.default_rng(0)
    for layer in (Held(p, rng=rng), Dropout(p, rng=rng).eval()):
        errors = check_gradients(layer, x, np.random.default_rng(0))
        assert errors["input"] < 1e-8


def test_mean_and_variance_are_torchs():
    p, count = 0.3, 400_000
    ours = Dropout(p, rng=np.random.default_rng(0)).forward(np.ones(count))
    theirs = torch.nn.Dropout(p)(torch.ones(count, dtype=torch.float64))
    assert set(np.unique(ours)) == set(np.unique(theirs.numpy()))
    assert abs(ours.mean() - theirs.mean().item()) < 0.01
    assert abs(ours.var() - theirs.var().item()) < 0.01


def test_evaluated_it_does_nothing_and_needs_no_dice():
    x = np.arange(6.0).reshape(2, 3)
    rng = np.random.default_rng(0)
    layer = Dropout(0.9, rng=rng).eval()
    assert np.array_equal(layer.forward(x), x)
    assert np.array_equal(layer.backward(x + 1), x + 1)
    assert rng.random() == np.random.default_rng(0).random()


def test_predict_asks_the_whole_network():
    rng = np.random.default_rng(0)
    network = Sequential(Linear(4, 8, rng=rng), Dropout(rng=rng))
    x = rng.standard_normal((5, 4)).astype(np.float32)
    whole = network.layers[0].forward(x)
    assert np.array_equal(predict(network, x), whole)
    assert network.layers[1].training
    assert not np.array_equal(network.forward(x), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(dtype):
    x = np.ones((3, 4), dtype)
    layer = Dropout(0.5, rng=np.random.default_rng(0))
    assert layer.forward(x).dtype == dtype
    assert layer.backward(x).dtype == dtype


def test_what_is_left_out_is_left_out_of_infinity_too():
    x = np.array([np.inf, np.nan, 1.0])
    kept = np.array([False, False, True])
    assert np.array_equal(dropout(x, kept, 0.5), [0, 0, 2])
    assert np.isinf(dropout(x, ~kept, 0.5)[0])


class SameDice(torch.nn.Module):
    """PyTorch's side of our Dropout: p = 0.4, and the masks of one seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.rng.random(tuple(x.shape), np.float32) >= 0.4
        return x * torch.from_numpy(kept) / 0.6


def test_fifty_steps_beside_pytorch():
    rng = np.random.default_rng(0)
    mine = Sequential(
        Linear(6, 16, rng=rng),
        ReLU(),
        Dropout(0.4, rng=np.random.default_rng(1)),
        Linear(16, 3, rng=rng),
    ).to(np.float64)
    theirs = to_torch(mine)
    theirs[2] = SameDice(seed=1)
    steps_beside_torch(mine, theirs, (8, 6), 3)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.value, q.detach(), rtol=0, atol=1e-10)


def test_a_resumed_training_throws_the_same_dice(tmp_path):
    training, validation, _ = digits()
    found = []
    for epochs in ([2], [1, 2]):
        path = tmp_path / f"{len(epochs)}.npz"
        for last in epochs:
            rng = np.random.default_rng(3)  # one for layers and order
            network = Sequential(
                *(Flatten(), Linear(64, 16, rng=rng), ReLU()),
                *(Dropout(rng=rng), Linear(16, 10, rng=rng)),
            )
            train(
                network,
                SGD(network.parameters(), 0.1),
                training.subset(slice(200)),
                validation.subset(slice(20)),
                epochs=last,
                batch_size=20,
                rng=rng,
                checkpoint=path,
            )
        found.append(load_arrays(path)["value/4.weight"])
    assert np.array_equal(*found)


@pytest.mark.parametrize("p", [1, 1.5, -0.1, np.nan])
def test_a_share_out_of_range(p):
    with pytest.raises(ValueError, match=in_order("p is", "0 <= p < 1", "")):
        Dropout(p, rng=np.random.default_rng(0))


def test_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=in_order("dropout", "(2, 3)")):
        dropout(np.zeros((2, 4)), np.ones((2, 3), bool), 0.5)
