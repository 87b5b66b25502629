"""Batch normalisation beside PyTorch's, in float64, in both modes."""

import copy
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contracts import Here
from toys import (
    digits,
    normalised_convolutions,
    steps_beside_torch,
    to_torch,
)

import cnn
from cnn import (
    SGD,
    BatchNorm2d,
    CrossEntropyLoss,
    DistributedStep,
    ParallelStep,
    batch_norm,
    batch_norm_backward,
    check_gradients,
    evaluate,
    load_arrays,
    predict,
    save_arrays,
    train_step,
)
from cnn.beyond.batch_norm import batch_statistics


EXACT = {"rtol": 1e-10, "atol": 1e-10}
# Of the normalised network.
STATISTICS = {
    f"{place}.{name}"
    for place in (1, 4)
    for name in ("running_mean", "running_var")
}
# At least 200 cases of these, also while one works.
many = settings(max_examples=max(200, settings().max_examples))


@st.composite
def cases(draw):
    """x (N, C, H, W) with two numbers a channel at least; what goes along."""
    sizes = st.integers(1, 5)
    shape = draw(
        st.tuples(sizes, sizes, sizes, sizes).filter(
            lambda s: s[0] * s[2] * s[3] > 1
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = draw(st.sampled_from([0.1, 1, 10])) * rng.standard_normal(shape)
    x += rng.standard_normal((shape[1], 1, 1))
    if draw(st.booleans()):  # as the layers before it lay it out in memory
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    layer = BatchNorm2d(
        shape[1],
        draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        draw(st.sampled_from([0.0, 0.1, 0.3, 1.0])),
    ).to(np.float64)
    for array in layer.named_arrays().values():
        array.value += rng.uniform(-0.5, 0.5, shape[1])
    return x, layer, rng


def tensor(array, **options):
    return torch.tensor(np.ascontiguousarray(array), **options)


def hold_beside_torch(layer, x, grad):
    """Forward and all gradients of a layer and its twin, in its mode."""
    twin = to_torch(layer)
    x_torch = tensor(x, requires_grad=True)
    y_torch = twin(x_torch)
    y_torch.backward(tensor(grad))
    y = layer.forward(x)
    np.testing.assert_allclose(y, y_torch.detach(), **EXACT)
    grad_x = layer.backward(grad)
    np.testing.assert_allclose(grad_x, x_torch.grad, **EXACT)
    for name, parameter in layer.named_parameters().items():
        theirs = getattr(twin, name)
        np.testing.assert_allclose(parameter.grad, theirs.grad, **EXACT)
    for name in ("running_mean", "running_var"):
        ours = layer.state_dict()[name]
        np.testing.assert_allclose(ours, getattr(twin, name), **EXACT)


@many
@given(cases())
def test_training_agrees_with_pytorch(case):
    x, layer, rng = case
    before = layer.state_dict()
    hold_beside_torch(layer, x, rng.standard_normal(x.shape))
    moved = layer.state_dict()["running_mean"] != before["running_mean"]
    assert moved.all() == (layer.momentum > 0)


@many
@given(cases())
def test_evaluation_agrees_with_pytorch(case):
    x, layer, rng = case
    before = layer.eval().state_dict()
    hold_beside_torch(layer, x, rng.standard_normal(x.shape))
    for name, value in layer.state_dict().items():
        assert np.array_equal(value, before[name])


@many
@given(cases())
def test_running_statistics_of_several_batches_agree_with_pytorch(case):
    x, layer, rng = case
    twin = to_torch(layer)
    for _ in range(5):
        batch = x + rng.standard_normal(x.shape)
        layer.forward(batch)
        twin(tensor(batch))
    for name in ("running_mean", "running_var"):
        ours = layer.state_dict()[name]
        np.testing.assert_allclose(ours, getattr(twin, name), **EXACT)


@given(cases())
def test_the_gradient_asks_for_no_shift_and_for_next_to_no_stretch(case):
    """What eq-batch-norm-orthogonal says, to the last crumb."""
    x, layer, rng = case
    g = rng.standard_normal(x.shape)
    mean, var = batch_statistics(x)
    weight, eps = layer.weight.value, layer.eps
    grad_x, grad_weight, _ = batch_norm_backward(g, x, weight, mean, var, eps)
    scale = np.abs(grad_x).max() + 1e-3
    shift = grad_x.sum(axis=(0, 2, 3))
    np.testing.assert_allclose(shift / scale, 0, atol=1e-9)
    unit = batch_norm(x, np.ones_like(var), np.zeros_like(var), mean, var, eps)
    stretch = (unit * grad_x).sum(axis=(0, 2, 3))
    crumb = weight * grad_weight * eps / (var + eps) ** 1.5
    np.testing.assert_allclose(stretch / scale, crumb / scale, atol=1e-8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 2, 3, 5), (1, 2, 3, 3), (6, 2, 1, 1)])
def test_gradients_agree_with_differences(training, shape):
    rng = np.random.default_rng(0)
    layer = BatchNorm2d(2).to(np.float64).train(training)
    layer.weight.value[...] = [0.5, -2]
    layer.running_mean.value[...] = [0.3, -1]
    layer.running_var.value[...] = [2, 0.5]
    x = rng.standard_normal(shape)
    errors = check_gradients(layer, x, rng)
    assert errors.keys() == {"input", "weight", "bias"}
    assert max(errors.values()) < 1e-7, errors


@pytest.mark.parametrize("training", [True, False])
def test_fifty_steps_beside_pytorch(training):
    """A whole network: every weight and every statistic stays equal."""
    mine = normalised_convolutions().train(training)
    theirs = to_torch(mine)
    start = mine.state_dict()
    steps_beside_torch(mine, theirs, (6, 2, 6, 6), 3)
    there = theirs.state_dict()
    # A bias before a mean that is taken off is given no gradient: it decays.
    still = {"0.bias", "3.bias"} if training else STATISTICS
    for name, value in mine.state_dict().items():
        np.testing.assert_allclose(value, there[name], rtol=0, atol=1e-10)
        moved = np.abs(value - start[name]).max()
        assert moved < 1e-12 if name in still else moved > 1e-3, name


def test_a_twin_of_pytorch_takes_the_saved_state_and_gives_it_back(tmp_path):
    """The names are PyTorch's; it counts batches besides, which we do not."""
    mine, path = normalised_convolutions(), tmp_path / "net.npz"
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 6))
    mine.forward(x)  # its statistics move
    save_arrays(path, mine.state_dict())
    twin = to_torch(normalised_convolutions(seed=1))
    state = {n: torch.tensor(a) for n, a in load_arrays(path).items()}
    twin.load_state_dict(state, strict=True)
    expected = predict(mine, x)
    with torch.no_grad():
        theirs = twin.eval()(torch.tensor(x))
    np.testing.assert_allclose(expected, theirs, **EXACT)
    again = normalised_convolutions(seed=2)
    back = {n: t.numpy() for n, t in twin.state_dict().items()}
    kept = {n: a for n, a in back.items() if not re.search("num_batches", n)}
    again.load_state_dict(kept)
    assert np.array_equal(predict(again, x), expected)
    # Without its statistics it is another network.
    again.named_arrays()["1.running_mean"].value[...] = 0
    assert not np.allclose(predict(again, x), expected)


def test_an_answer_depends_on_the_company_in_training_alone():
    network = normalised_convolutions()
    x = np.random.default_rng(0).standard_normal((8, 2, 6, 6))
    for mode, same in ((True, False), (False, True)):
        network.train(mode)
        first = network.forward(x)[:2]
        other = network.forward(x[[0, 1, 6, 7]])[:2]
        assert np.allclose(first, other) == same


def test_the_pencil_example():
    x = np.array([1.0, 1, 1, 1, 6]).reshape(5, 1, 1, 1)
    g = np.array([5.0, 0, 0, 0, 0]).reshape(5, 1, 1, 1)
    mean, var = batch_statistics(x)
    assert (mean, var) == ([2], [4])
    y = batch_norm(x, [1], [0], mean, var, eps=0)
    assert y.ravel().tolist() == [-0.5, -0.5, -0.5, -0.5, 2]
    grads = batch_norm_backward(g, x, [1], mean, var, eps=0)
    assert grads[0].ravel().tolist() == [1.875, -0.625, -0.625, -0.625, 0]
    assert (grads[1], grads[2]) == ([-2.5], [5])


def test_one_number_in_a_channel_teaches_nothing():
    layer = BatchNorm2d(3)
    before = layer.state_dict()
    x = np.ones((1, 3, 1, 1), np.float32)
    with pytest.raises(
        ValueError, match=in_order("BatchNorm2d", "expected 2", "eval()")
    ):
        layer.forward(x)
    with pytest.raises(ValueError, match="more than 1 value"):
        torch.nn.BatchNorm2d(3)(torch.tensor(x))
    for name, value in layer.state_dict().items():
        assert np.array_equal(value, before[name])
    assert layer.eval().forward(x).shape == x.shape
    assert layer.train().forward(np.ones((1, 3, 2, 1))).shape == (1, 3, 2, 1)


def test_a_channel_of_equal_numbers_stays_finite():
    layer = BatchNorm2d(2)
    layer.bias.value[...] = [3, -1]
    y = layer.forward(np.full((4, 2, 3, 3), 7.0, np.float32))
    assert np.allclose(y, layer.bias.value[:, np.newaxis, np.newaxis])
    assert np.isfinite(layer.backward(np.ones_like(y))).all()


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((0,), "num_features is 0"),
        ((2, 0.0), "eps is 0.0"),
        ((2, np.inf), "eps is inf"),
        ((2, np.nan), "eps is nan"),
        ((2, 1e-5, -0.1), "momentum -0.1"),
        ((2, 1e-5, 1.1), "momentum 1.1"),
        ((2, 1e-5, np.nan), "momentum nan"),
    ],
)
def test_what_is_out_of_range_is_refused(sizes, says):
    with pytest.raises(ValueError, match=in_order(says, "expected", ".")):
        BatchNorm2d(*sizes)


def test_other_channels_than_its_own_are_refused():
    with pytest.raises(
        ValueError,
        match=in_order(
            "BatchNorm2d was given x of shape (4, 3, 5, 5)",
            "expected (N, F, H, W), where F is 2",
        ),
    ):
        BatchNorm2d(2).forward(np.ones((4, 3, 5, 5)))


def test_the_dtype_of_the_statistics_stays_whatever_comes():
    layer = BatchNorm2d(2)
    layer.forward(np.random.default_rng(0).standard_normal((4, 2, 3, 3)))
    assert {a.dtype for a in layer.state_dict().values()} == {
        np.dtype(np.float32)
    }


def test_training_it_reads_digits_as_well_as_its_buffers_say():
    """Trained, saved, loaded into another: the same answers."""
    training, _, test = digits()
    network = classifier(0)
    optimizer, rng = SGD(network.parameters(), 0.1), np.random.default_rng(0)
    for _ in range(4):
        for images, labels in cnn.minibatches(training, 32, rng):
            train_step(network, optimizer, images, labels)
    assert evaluate(network, test)[1] > 0.75
    again = classifier(1)
    again.load_state_dict(network.state_dict())
    assert evaluate(again, test) == evaluate(network, test)


def classifier(seed):
    rng = np.random.default_rng(seed)
    return cnn.Sequential(
        cnn.Conv2d(1, 4, 3, rng=rng),
        BatchNorm2d(4),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Flatten(),
        cnn.Linear(36, 10, rng=rng),
    )


# --- a batch in parts --------------------------------------------------------


def batch(n=8):
    rng = np.random.default_rng(3)
    return rng.standard_normal((n, 2, 6, 6)), rng.integers(0, 3, n)


def in_parts(network, x, labels, chained):
    """Two halves, each normalised by itself; their gradients are added.

    chained: the second sees the running statistics that the first leaves.
    """
    ours, loss, total = copy.deepcopy(network), 0.0, 0.0
    state = {}
    for half in (slice(0, 4), slice(4, 8)):
        if not chained:
            ours = copy.deepcopy(network)
        criterion = CrossEntropyLoss()
        loss += criterion.forward(ours.forward(x[half]), labels[half]) / 2
        ours.backward(criterion.backward())
        total += np.concatenate([p.grad.ravel() for p in ours.parameters()])
        if chained or not state:
            state = ours.state_dict()
    return loss, total / 2, state


STEPS = {
    "a worker each": (
        lambda n: ParallelStep(n, workers=2, microbatch_size=4),
        False,
    ),
    "one after the other": (
        lambda n: ParallelStep(n, workers=1, microbatch_size=4),
        True,
    ),
    "a shard each": (
        lambda _: nullcontext(DistributedStep(Here(), shards=2)),
        False,
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_each_part_of_a_batch_is_normalised_by_itself(name):
    """And the statistics that come back are those of the caller's part."""
    make, chained = STEPS[name]
    network, (x, labels) = normalised_convolutions(), batch()
    optimizer, criterion = SGD(network.parameters(), 0.1), CrossEntropyLoss()
    whole = criterion.forward(copy.deepcopy(network).forward(x), labels)
    with make(network) as step:
        for _ in range(3):
            loss, gradient, state = in_parts(network, x, labels, chained)
            found, _ = step(network, optimizer, x, labels)
            assert found == pytest.approx(loss, abs=1e-10)
            ours = np.concatenate(
                [p.grad.ravel() for p in network.parameters()]
            )
            np.testing.assert_allclose(ours, gradient, **EXACT)
            for key in STATISTICS:
                buffer = network.named_arrays()[key].value
                np.testing.assert_allclose(buffer, state[key], **EXACT)
            assert abs(found - whole) > 1e-3  # not what the whole batch gives
    network.eval()
    with make(network) as step:
        found, _ = step(network, SGD(network.parameters(), 0.0), x, labels)
    alone = criterion.forward(network.forward(x), labels)
    assert found == pytest.approx(alone, abs=1e-10)
