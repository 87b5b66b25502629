"""Shortcuts and averages beside PyTorch's, in float64, in both modes."""

import copy
from math import prod

import numpy as np
import pytest
import torch
from conftest import halving_block, in_order
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import digits, residual_network, steps_beside_torch, to_torch

import cnn
from cnn import (
    SGD,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ParallelStep,
    ReLU,
    Residual,
    Sequential,
    avg_pool2d,
    avg_pool2d_backward,
    check_gradients,
    evaluate,
    load_arrays,
    predict,
    save_arrays,
    train_step,
)
from cnn.beyond.fast import fuse_layers


EXACT = {"rtol": 1e-10, "atol": 1e-10}
# At least 200 cases of these, also while one works.
many = settings(max_examples=max(200, settings().max_examples))
seeds = st.integers(0, 2**32 - 1)


def images(rng, shape, turned):
    """Drawn numbers; turned: as the layers lay them out in memory."""
    x = rng.standard_normal(shape)
    if turned:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    return x


def hold_beside_torch(layer, x, rng):
    """Forward, all gradients and buffers of a layer and its twin."""
    twin = to_torch(layer)
    x_torch = torch.tensor(np.ascontiguousarray(x), requires_grad=True)
    y_torch = twin(x_torch)
    y = layer.forward(x)
    np.testing.assert_allclose(y, y_torch.detach(), **EXACT)
    grad = rng.standard_normal(y.shape)
    y_torch.backward(torch.tensor(grad))
    np.testing.assert_allclose(layer.backward(grad), x_torch.grad, **EXACT)
    theirs = dict(twin.named_parameters())
    assert theirs.keys() == layer.named_parameters().keys()
    for name, parameter in layer.named_parameters().items():
        np.testing.assert_allclose(parameter.grad, theirs[name].grad, **EXACT)
    there = twin.state_dict()
    for name, value in layer.state_dict().items():
        np.testing.assert_allclose(value, there[name], **EXACT)


# --- averages ----------------------------------------------------------------


@st.composite
def poolings(draw):
    """A pooling and an x that at least one of its windows fits."""
    side = st.integers(1, 8)
    height, width = draw(side), draw(side)
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    kernel = tuple(
        min(k, size + 2 * p)
        for k, size, p in zip(kernel, (height, width), padding, strict=True)
    )
    padding = tuple(
        min(p, k // 2) for p, k in zip(padding, kernel, strict=True)
    )
    stride = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 3)), height, width
    x = images(rng, shape, draw(st.booleans()))
    fits = all(
        size + 2 * p >= k
        for k, size, p in zip(kernel, (height, width), padding, strict=True)
    )
    if not fits:
        kernel, padding = (1, 1), (0, 0)
    return AvgPool2d(kernel, stride, padding), x, rng


@many
@given(poolings())
def test_average_pooling_agrees_with_pytorch(case):
    layer, x, rng = case
    hold_beside_torch(layer, x, rng)


@given(poolings())
def test_average_pooling_is_its_definition(case):
    layer, x, _ = case
    (rows, cols), (down, right) = layer.kernel_size, layer.stride
    p, q = layer.padding
    framed = np.pad(x, ((0, 0), (0, 0), (p, p), (q, q)))
    y = layer.forward(x)
    for i, j in np.ndindex(y.shape[2:]):
        window = framed[:, :, down * i :, right * j :][:, :, :rows, :cols]
        assert window.shape[2:] == (rows, cols)
        assert np.allclose(y[:, :, i, j], window.mean(axis=(2, 3)))


@given(poolings())
def test_backward_is_the_transpose_of_forward(case):
    """<avg(x), g> = <x, avg_backward(g)>, and nothing of g is lost."""
    layer, x, rng = case
    y = layer.forward(x)
    g = rng.standard_normal(y.shape)
    assert np.isclose(np.sum(y * g), np.sum(x * layer.backward(g)))
    if layer.padding == (0, 0):
        assert np.isclose(layer.backward(g).sum(), g.sum())


@many
@given(seeds, st.tuples(*[st.integers(1, 6)] * 4), st.booleans())
def test_the_mean_of_a_map_agrees_with_pytorch(seed, shape, turned):
    rng = np.random.default_rng(seed)
    x = images(rng, shape, turned)
    layer = GlobalAvgPool2d()
    hold_beside_torch(layer, x, rng)
    whole = avg_pool2d(x, shape[2:])
    np.testing.assert_allclose(layer.forward(x), whole, **EXACT)
    assert np.isclose(
        layer.backward(whole)[0, 0, 0, 0] * prod(shape[2:]), whole[0, 0, 0, 0]
    )


def test_the_pencil_row():
    row = np.array([1.0, 3, 5, 7]).reshape(1, 1, 1, 4)
    y = avg_pool2d(row, (1, 2), 1)
    assert y.ravel().tolist() == [2, 4, 6]
    grad = avg_pool2d_backward(y, row.shape, (1, 2), 1)
    assert grad.ravel().tolist() == [1, 3, 5, 3]


def test_the_frame_counts():
    corner = avg_pool2d(np.ones((1, 1, 4, 4)), 3, 1, 1)[0, 0, 0, 0]
    assert np.isclose(corner, 4 / 9)
    with pytest.raises(ValueError, match=in_order("padding is 2", "half", "")):
        AvgPool2d(3, 1, 2)


def test_rows_that_no_window_reads_get_gradient_zero():
    layer = AvgPool2d(2)
    grad = layer.backward(layer.forward(np.ones((1, 1, 5, 5))))
    assert (grad[..., :4, :4] == 0.25).all()
    assert not grad[..., 4, :].any()
    assert not grad[..., 4].any()


# --- shortcuts ---------------------------------------------------------------


@st.composite
def blocks(draw):
    """A block of drawn layers, in float64, in a drawn mode, and an x."""
    rng = np.random.default_rng(draw(seeds))
    channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride = draw(st.integers(1, 2))
    layers: list[Layer] = []
    c, step = channels, stride
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            layers.append(BatchNorm2d(c))
        if draw(st.booleans()):
            layers.append(ReLU())
        k = draw(st.sampled_from([1, 3]))
        layers.append(Conv2d(c, filters, k, step, k // 2, rng=rng))
        c, step = filters, 1
    if draw(st.booleans()):
        pool = draw(st.sampled_from([AvgPool2d, MaxPool2d]))
        layers.append(pool(3, 1, 1))
    if draw(st.booleans()):
        inner = Conv2d(c, c, 3, padding=1, rng=rng)
        layers.append(Residual(ReLU(), inner))
    shortcut = None
    if channels != filters or stride > 1:
        shortcut = Conv2d(channels, filters, 1, stride, rng=rng)
        if draw(st.booleans()):
            shortcut = Sequential(shortcut, BatchNorm2d(filters))
    block = Residual(*layers, shortcut=shortcut).to(np.float64)
    for array in block.named_arrays().values():
        array.value += 0.1 * rng.random(array.value.shape)
    shape = (
        draw(st.integers(2, 4)),
        channels,
        *draw(st.tuples(st.integers(2, 6), st.integers(2, 6))),
    )
    x = images(rng, shape, draw(st.booleans()))
    return block.train(draw(st.booleans())), x, rng


@many
@given(blocks())
def test_a_block_agrees_with_pytorch(case):
    block, x, rng = case
    hold_beside_torch(block, x, rng)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", [True, False])
def test_gradients_agree_with_differences(training, shortcut):
    rng = np.random.default_rng(0)
    filters = 3 if shortcut else 2
    block = Residual(
        BatchNorm2d(2),
        ReLU(),
        Conv2d(2, filters, 3, 1 + shortcut, 1, rng=rng),
        shortcut=Conv2d(2, 3, 1, 2, rng=rng) if shortcut else None,
    ).to(np.float64)
    x = rng.standard_normal((4, 2, 5, 5))
    errors = check_gradients(block.train(training), x, rng)
    names = {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}
    names |= {"shortcut.weight", "shortcut.bias"} if shortcut else set()
    assert errors.keys() == {"input", *names}
    assert max(errors.values()) < 1e-7, errors


def test_the_pencil_block():
    block = Residual(Linear(2, 2, rng=np.random.default_rng(0)), ReLU())
    block.body.layers[0].weight.value = np.array([[1.0, 1], [-1, 1]])
    assert block.forward([[3.0, 1.0]]).tolist() == [[7, 1]]
    assert block.backward(np.array([[1.0, 10]])).tolist() == [[2, 11]]


def test_a_block_that_answers_zero_does_nothing():
    rng = np.random.default_rng(0)
    block = Residual(ReLU(), Conv2d(2, 2, 3, padding=1, rng=rng))
    for parameter in block.parameters():
        parameter.value[...] = 0
    x, g = rng.standard_normal((2, 3, 2, 5, 5))
    assert np.array_equal(block.forward(x), x)
    assert np.array_equal(block.backward(g), g)


def test_the_gradients_of_both_ways_are_added():
    """Either alone is another number."""
    rng = np.random.default_rng(1)
    block = Residual(Conv2d(2, 2, 3, padding=1, rng=rng)).to(np.float64)
    x, g = rng.standard_normal((2, 3, 2, 5, 5))
    block.forward(x)
    whole, through = block.backward(g), block.body.backward(g)
    np.testing.assert_allclose(whole, g + through, **EXACT)
    assert not np.allclose(whole, g)
    assert not np.allclose(whole, through)


def test_a_pixel_convolution_is_a_matrix_product():
    rng = np.random.default_rng(2)
    conv = Conv2d(3, 4, 1, rng=rng).to(np.float64)
    x = rng.standard_normal((2, 3, 5, 6))
    matrix = conv.weight.value[:, :, 0, 0]
    expected = np.einsum("fc,nchw->nfhw", matrix, x)
    np.testing.assert_allclose(conv.forward(x), expected, **EXACT)


@pytest.mark.parametrize(
    ("layers", "made"),
    [
        ((lambda r: Conv2d(3, 1, 3, padding=1, rng=r),), "(2, 1, 6, 6)"),
        ((lambda r: GlobalAvgPool2d(),), "(2, 3, 1, 1)"),
        ((lambda r: AvgPool2d((6, 1)),), "(2, 3, 1, 6)"),
        ((lambda r: Conv2d(3, 4, 3, padding=1, rng=r),), "(2, 4, 6, 6)"),
        ((lambda r: Conv2d(3, 3, 3, rng=r),), "(2, 3, 4, 4)"),
    ],
)
def test_nothing_is_stretched(layers, made):
    """The first three are what NumPy would add without a word."""
    rng = np.random.default_rng(0)
    block = Residual(*(make(rng) for make in layers))
    says = in_order(
        f"Residual was given layers that make {made}",
        "expected (2, 3, 6, 6)",
        "shortcut",
    )
    with pytest.raises(ValueError, match=says):
        block.forward(np.ones((2, 3, 6, 6)))


def test_a_shortcut_of_another_shape_is_refused():
    rng = np.random.default_rng(0)
    block = Residual(
        Conv2d(3, 4, 3, 2, 1, rng=rng), shortcut=Conv2d(3, 4, 1, rng=rng)
    )
    with pytest.raises(ValueError, match=in_order("(2, 4, 3, 3)", "expected")):
        block.forward(np.ones((2, 3, 6, 6)))


def test_a_layer_stands_in_one_place():
    conv = Conv2d(2, 2, 1, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=in_order("Conv2d", "another", "new")):
        Residual(conv, shortcut=conv)
    with pytest.raises(ValueError, match="at least one, and each once"):
        Residual(conv, conv)
    with pytest.raises(ValueError, match="at least one, and each once"):
        Residual()


# --- the promise -------------------------------------------------------------


def test_names_mode_copies_and_repr():
    block = halving_block()
    assert list(block.state_dict()) == [
        *("body.0.weight", "body.0.bias"),
        *("shortcut.weight", "shortcut.bias"),
    ]
    assert [*block.children()] == ["body", "shortcut"]
    assert not any(layer.training for layer in block.eval().modules())
    twin = copy.deepcopy(block)
    twin.parameters()[0].value += 1
    x = np.ones((1, 2, 4, 4), np.float32)
    assert not np.array_equal(twin.forward(x), block.forward(x))
    assert (
        repr(block)
        == """\
Residual(
  (body): Sequential(
    (0): Conv2d(weight (3, 2, 3, 3), bias (3,))
    (1): ReLU()
  )
  (shortcut): Conv2d(weight (3, 2, 1, 1), bias (3,))
)"""
    )


@pytest.mark.parametrize("training", [True, False])
def test_fifty_steps_beside_pytorch(training):
    """A whole network: every weight and every statistic stays equal."""
    mine = residual_network().train(training)
    theirs = to_torch(mine)
    start = mine.state_dict()
    steps_beside_torch(mine, theirs, (6, 2, 6, 6), 3)
    there = theirs.state_dict()
    moved = 0
    for name, value in mine.state_dict().items():
        np.testing.assert_allclose(value, there[name], rtol=0, atol=1e-10)
        moved += np.abs(value - start[name]).max() > 1e-3
    assert moved >= 14


def test_it_is_saved_and_loaded_by_name(tmp_path):
    """Also into a twin of PyTorch, whose names are the same."""
    mine, path = residual_network(), tmp_path / "net.npz"
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 6))
    mine.forward(x)  # its statistics move
    save_arrays(path, mine.state_dict())
    again = residual_network(seed=1)
    again.load_state_dict(load_arrays(path), path)
    expected = predict(mine, x)
    assert np.array_equal(predict(again, x), expected)
    twin = to_torch(residual_network(seed=2))
    state = {n: torch.tensor(a) for n, a in load_arrays(path).items()}
    twin.load_state_dict(state, strict=True)
    with torch.no_grad():
        theirs = twin.eval()(torch.tensor(x))
    np.testing.assert_allclose(expected, theirs, **EXACT)


def test_the_fast_copy_and_the_shared_step_take_it():
    """Without statistics of a batch, so that parts add up."""

    def network():
        rng = np.random.default_rng(0)
        return Sequential(
            *(Conv2d(1, 3, 3, rng=rng), ReLU(), MaxPool2d(2)),
            Residual(ReLU(), Conv2d(3, 3, 3, padding=1, rng=rng)),
            *(AvgPool2d(2, 1), GlobalAvgPool2d(), Flatten()),
            Linear(3, 4, rng=rng),
        ).to(np.float64)

    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((8, 1, 8, 8)), rng.integers(0, 4, 8)
    whole, parts = network(), network()
    np.testing.assert_allclose(
        fuse_layers(whole).forward(x), whole.forward(x), **EXACT
    )
    loss, _ = train_step(whole, SGD(whole.parameters(), 0.1), x, labels)
    with ParallelStep(parts, workers=2, microbatch_size=2) as step:
        found, _ = step(parts, SGD(parts.parameters(), 0.1), x, labels)
    assert found == pytest.approx(loss, abs=1e-12)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(parts.state_dict()[name], value, **EXACT)


def test_training_it_reads_digits():
    training, _, test = digits()
    rng = np.random.default_rng(0)
    network = Sequential(
        Conv2d(1, 8, 3, padding=1, rng=rng),
        Residual(
            BatchNorm2d(8),
            ReLU(),
            Conv2d(8, 8, 3, 2, 1, rng=rng),
            shortcut=AvgPool2d(2),
        ),
        BatchNorm2d(8),
        ReLU(),
        Flatten(),
        Linear(128, 10, rng=rng),
    )
    optimizer = SGD(network.parameters(), 0.1)
    for _ in range(3):
        for batch in cnn.minibatches(training, 32, rng):
            train_step(network, optimizer, *batch)
    assert evaluate(network, test)[1] > 0.8
