"""nan and infinity, planted at each place of each array, beside PyTorch."""

import numpy as np
import pytest
import torch
from conftest import CONTRACT_LAYERS
from toys import to_torch

import cnn
from cnn import MaxPool2d, max_pool2d, max_pool2d_backward
from cnn.beyond.fast import fuse_layers


BAD = [np.nan, np.inf, -np.inf]


def agree(ours: object, theirs: torch.Tensor | None, where: object) -> None:
    """Equal where finite, else the same kind: nan, inf or -inf."""
    assert theirs is not None
    np.testing.assert_allclose(
        np.asarray(ours),
        theirs.detach().numpy(),
        rtol=1e-10,
        atol=1e-12,
        err_msg=str(where),
    )


def quiet():
    """0 * inf and inf - inf warn; here they are what is asked about."""
    return np.errstate(invalid="ignore", over="ignore")


class FirstNan(torch.nn.MaxPool2d):
    """Of several nan in a window PyTorch takes the last, and we the first."""

    def forward(self, x):
        y = super().forward(x)
        last = super().forward(x.flip(2, 3)).flip(2, 3)
        return torch.where(y.isnan(), last, y)


def twin_of(layer):
    twin = to_torch(layer)
    if isinstance(twin, torch.nn.Sequential):
        # No rows are left over, so that its windows are the flipped ones.
        twin[2] = FirstNan(2)
    return twin


def hold_against_torch(layer, x, grad, where):
    """Forward and all gradients of a layer and its twin."""
    twin = twin_of(layer)
    tx = torch.tensor(x, requires_grad=True)
    ty = twin(tx)
    ty.backward(torch.tensor(grad))
    with quiet():
        agree(layer.forward(x), ty, where)
        agree(layer.backward(grad), tx.grad, where)
    for ours, theirs in zip(
        layer.parameters(), twin.parameters(), strict=True
    ):
        agree(ours.grad, theirs.grad, where)


def planted(array):
    """The array with each bad number at each place, and what that is."""
    for bad in BAD:
        for place in np.ndindex(array.shape):
            copy = array.copy()
            copy[place] = bad
            yield copy, (bad, place)


@pytest.mark.parametrize("name", CONTRACT_LAYERS)
def test_each_layer_does_as_pytorch_does(name):
    make, shape = CONTRACT_LAYERS[name]
    layer = make().to(np.float64)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *shape[1:]))
    grad = rng.standard_normal(layer.forward(x).shape)
    for bad_x, where in planted(x):
        hold_against_torch(layer, bad_x, grad, ("x", where))
    for bad_grad, where in planted(grad):
        hold_against_torch(layer, x, bad_grad, ("grad", where))
    for key, parameter in layer.named_parameters().items():
        kept = parameter.value
        for bad, where in planted(kept):
            if name == "BatchNorm2d" and np.isinf(bad).any():
                continue  # PyTorch makes one factor of all: inf - inf
            parameter.value = bad
            hold_against_torch(layer, x, grad, (key, where))
        parameter.value = kept


def test_overlapping_windows_and_a_frame():
    """A nan that wins in several windows; -inf beside the frame."""
    rng = np.random.default_rng(0)
    for sizes in ((3, 1, 0), (2, 2, 1), (3, 2, 1), ((1, 2), (1, 1), (0, 1))):
        layer = MaxPool2d(*sizes)
        x = rng.standard_normal((1, 2, 5, 5))
        grad = rng.standard_normal(layer.forward(x).shape)
        for bad_x, where in planted(x):
            hold_against_torch(layer, bad_x, grad, (sizes, "x", where))
        for bad_grad, where in planted(grad):
            hold_against_torch(layer, x, bad_grad, (sizes, "grad", where))


def test_of_several_nan_the_first_wins_as_argmax_says():
    x = np.array([[1.0, np.nan], [np.nan, np.inf]]).reshape(1, 1, 2, 2)
    y = max_pool2d(x, 2)
    back = max_pool2d_backward(np.ones_like(y), x, y, 2)
    assert np.isnan(y).all()
    assert back.ravel().tolist() == [0, 1, 0, 0]
    assert back.argmax() == x.argmax()


# Functions that have no layer.


def test_softmax_and_cross_entropy_do_as_pytorch_does():
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((3, 4)), np.array([0, 2, 3])
    for bad, where in planted(z):
        tz = torch.tensor(bad, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(tz, torch.tensor(labels))
        loss.backward()
        with quiet():
            agree(cnn.softmax(bad), torch.softmax(tz, 1), where)
            agree(cnn.cross_entropy(bad, labels), loss, where)
            agree(cnn.cross_entropy_backward(bad, labels), tz.grad, where)


@pytest.mark.parametrize("array", ["value", "grad", "velocity"])
def test_sgd_does_as_pytorch_does(array):
    rng = np.random.default_rng(0)
    for bad, where in planted(rng.standard_normal(3)):
        ours = cnn.Parameter(bad if array == "value" else np.ones(3))
        theirs = torch.nn.Parameter(torch.tensor(ours.value.copy()))
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
        optimizer = cnn.SGD([ours], **options)
        twin = torch.optim.SGD([theirs], **options)
        for step in range(2):
            late = array == "velocity" and step == 0
            ours.grad = bad if array == "grad" or late else np.ones(3)
            theirs.grad = torch.tensor(ours.grad)
            with quiet():
                optimizer.step()
            twin.step()
        agree(ours.value, theirs, where)


@pytest.mark.parametrize("bad", BAD)
def test_no_update_with_a_loss_that_is_not_finite(bad):
    network = CONTRACT_LAYERS["Sequential"][0]().to(np.float64)
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6))
    before = network.state_dict()
    x[0, 0, 2, 2] = bad
    with quiet(), pytest.raises(ValueError, match="the loss is"):
        cnn.train_step(
            network, cnn.SGD(network.parameters(), 0.1), x, np.arange(3)
        )
    for name, value in network.state_dict().items():
        assert np.array_equal(value, before[name])


def test_initialisation_forgets_what_was_there():
    network = CONTRACT_LAYERS["Sequential"][0]()
    for parameter in network.parameters():
        parameter.value[...] = np.nan
    cnn.initialize(network, cnn.he_std, np.random.default_rng(0))
    assert all(np.isfinite(p.value).all() for p in network.parameters())


@pytest.mark.parametrize("bad", BAD)
def test_metrics_refuse_them_or_show_them(bad):
    """Class numbers that are not finite cannot be counted."""
    numbers = np.array([0.0, bad, 1.0])
    with pytest.raises(ValueError, match="expected"):
        cnn.confusion_matrix(numbers, np.array([0, 1, 1]), 2)
    with pytest.raises(ValueError, match="expected"):
        cnn.cross_entropy(np.zeros((3, 2)), numbers)


# The fused layer: forward as the three; its way back is for finite numbers,
# as a step whose loss is not finite changes no weight.


@pytest.mark.parametrize("pool", [(2,), (3, 1), (3, 2, 1)])
@pytest.mark.parametrize("evaluates", [False, True])
def test_the_fused_layer_answers_as_the_three_do(pool, evaluates):
    rng = np.random.default_rng(0)
    conv = cnn.Conv2d(1, 2, 3, rng=rng)
    three = cnn.Sequential(conv, cnn.ReLU(), MaxPool2d(*pool)).to(np.float64)
    fused = fuse_layers(three).layers[0].train(not evaluates)
    for x, where in planted(rng.standard_normal((1, 1, 7, 7))):
        with quiet():
            theirs, ours = three.forward(x), fused.forward(x)
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-9, atol=1e-12, err_msg=str(where)
        )
