"""The fast layers: the same numbers in fewer passes over memory."""

import copy
import ctypes
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import to_torch, two_convolutions, two_poolings

import cnn
from cnn.beyond.fast import (
    ConvReLUPool,
    fuse_layers,
    keep_freed_memory,
    knockout,
    predict,
    slabs_grad_input,
    unpool,
    windows_in_combs,
)
from cnn.convolution import conv2d_grad_input
from cnn.windows import im2col, output_size, pad, to_chwn


def batch(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 1, 12, 12)), rng.integers(0, 5, n)


def grads(network: cnn.Layer) -> list[np.ndarray]:
    return [p.grad for p in network.parameters()]


def forget_grads(network: cnn.Layer) -> None:
    for p in network.parameters():
        p.grad = np.full_like(p.grad, np.nan)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def three_layers(draw):
    """Conv2d, ReLU, MaxPool2d of any sizes, and the shape of a batch."""
    conv = cnn.Conv2d(
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
        draw(pairs),
        draw(pairs),
        draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        rng=np.random.default_rng(draw(st.integers(0, 9))),
    )
    conv.bias.value[:] = np.arange(len(conv.bias.value)) - 1
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.none() | st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    pool = cnn.MaxPool2d(kernel, stride, padding)
    n, side = draw(st.integers(1, 3)), st.integers(4, 12)
    shape = n, conv.weight.value.shape[1], draw(side), draw(side)
    return cnn.Sequential(conv, cnn.ReLU(), pool), shape


@given(three_layers(), st.booleans(), st.integers(0, 99))
def test_the_fused_layer_is_convolution_relu_and_pooling(drawn, ties, seed):
    """Also among equal numbers; its errors are theirs; so is PyTorch's."""
    (three, shape), rng = drawn, np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if ties:
        x = np.round(x)
        weight = three.layers[0].weight
        weight.value = np.round(2 * weight.value)
    three = three.to(np.float64)
    conv, _, pool = three.layers
    fused = ConvReLUPool(copy.deepcopy(conv), pool)
    error = None
    try:
        y = three.forward(x)
    except ValueError as problem:
        error = str(problem)
    if error:
        with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
            fused.forward(x)
        return
    grad = rng.standard_normal(y.shape)
    grad_input = three.backward(grad)
    assert np.allclose(fused.forward(x), y, 1e-10, 1e-12)
    forget_grads(fused)
    assert np.allclose(fused.backward(grad), grad_input, 1e-10, 1e-12)
    for ours, theirs in zip(grads(fused), grads(three), strict=True):
        assert np.allclose(ours, theirs, 1e-10, 1e-12)
    forget_grads(fused)
    fused.backward_parameters(grad)
    for ours, theirs in zip(grads(fused), grads(three), strict=True):
        assert np.allclose(ours, theirs, 1e-10, 1e-12)

    twin = to_torch(three)
    tx = torch.from_numpy(x).requires_grad_()
    ty = twin(tx)
    ty.backward(torch.from_numpy(grad))
    assert np.allclose(fused.forward(x), ty.detach().numpy(), 1e-10, 1e-12)
    assert np.allclose(grad_input, tx.grad.numpy(), 1e-10, 1e-12)
    for ours, theirs in zip(grads(fused), twin.parameters(), strict=True):
        assert np.allclose(ours, theirs.grad.numpy(), 1e-10, 1e-12)


@given(three_layers(), st.integers(0, 99))
def test_in_float32_it_is_the_three_layers_to_within_rounding(drawn, seed):
    (three, shape), rng = drawn, np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    conv, _, pool = three.layers
    fused = ConvReLUPool(copy.deepcopy(conv), pool)
    try:
        y = three.forward(x)
    except ValueError:
        return
    grad = rng.standard_normal(y.shape).astype(np.float32)
    results = [
        (net.forward(x), net.backward(grad), *grads(net))
        for net in (three, fused)
    ]
    for theirs, ours in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        scale = max(1, np.abs(theirs).max())
        assert np.abs(ours - theirs).max() < 1e-5 * scale


def test_it_computes_in_the_type_that_the_three_do():
    conv = cnn.Conv2d(1, 2, 3, rng=np.random.default_rng(0))  # float32
    three = cnn.Sequential(conv, cnn.ReLU(), cnn.MaxPool2d(2))
    x, _ = batch(3)  # float64
    y = ConvReLUPool(conv, cnn.MaxPool2d(2)).forward(x)
    assert y.dtype == three.forward(x).dtype == np.float64
    assert np.allclose(y, three.forward(x), rtol=0, atol=1e-12)


def test_a_large_window_has_more_places_than_a_byte_counts():
    rng = np.random.default_rng(0)
    conv, pool = cnn.Conv2d(1, 2, 3, rng=rng), cnn.MaxPool2d(17, 5)
    three = cnn.Sequential(conv, cnn.ReLU(), pool).to(np.float64)
    fused, x = ConvReLUPool(conv, pool), rng.standard_normal((2, 1, 30, 30))
    y = three.forward(x)
    dx = three.backward(np.ones_like(y))
    assert np.allclose(fused.forward(x), y)
    assert np.allclose(fused.backward(np.ones_like(y)), dx)


def test_while_it_evaluates_it_gives_the_same_and_keeps_nothing():
    network, (x, _) = fuse_layers(two_poolings()), batch(5)
    y = network.forward(x)
    fused = [m for m in network.modules() if isinstance(m, ConvReLUPool)]
    other = fuse_layers(network).eval()  # a copy has no forward behind it
    assert np.array_equal(other.forward(x), y)
    assert len(fused) == 2
    for layer in other.modules():
        if isinstance(layer, ConvReLUPool):
            with pytest.raises(ValueError, match="before forward"):
                layer.backward(y)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 6, 6), "in_channels to 2"),
        ((3, 6, 6), r"\(N, C, H, W\)"),
        ((0, 3, 6, 6), "No axis may be 0"),
        ((1, 3, 3, 6), "kernel_size .* is larger than the input"),
    ],
)
def test_it_names_images_that_do_not_fit(shape, message):
    conv = cnn.Conv2d(3, 4, 3, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        ConvReLUPool(conv, cnn.MaxPool2d(2)).forward(np.zeros(shape))


@given(
    st.tuples(*[st.integers(1, 3)] * 4),
    pairs,
    st.tuples(*[st.integers(0, 2)] * 2),
    st.integers(1, 4),
)
def test_windows_in_combs_are_those_of_im2col_in_another_order(
    sizes, stride, padding, d
):
    n, channels, *kernel = sizes
    x = np.random.default_rng(0).standard_normal((n, channels, 10, 11))
    rows, cols = output_size(x.shape[2:], tuple(kernel), stride, padding)
    theirs = im2col(x, tuple(kernel), stride, padding)
    # (C*k*k, H'*W'*N) -> (u, c, v) by (H', W', N)
    theirs = theirs.reshape(channels, *kernel, rows, cols, n)
    theirs = theirs.transpose(3, 1, 0, 2, 4, 5).reshape(rows, -1, cols, n)
    teeth = -(-cols // d)
    block = pad(to_chwn(x), padding)
    ours = windows_in_combs(
        block, tuple(kernel), stride, (rows, teeth), (d, d)
    )
    assert not ours.flags.writeable
    ours = ours.reshape(*ours.shape[:3], teeth, n)
    for comb in range(d):
        expected = theirs[:, :, comb::d]
        assert np.array_equal(ours[comb][:, :, : expected.shape[2]], expected)


@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    pairs,
    st.integers(4, 9),
    st.integers(0, 99),
)
def test_the_gradient_by_slabs_is_that_of_the_convolution(
    sizes, stride, side, seed
):
    filters, channels, *kernel = sizes
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((filters, channels, *kernel))
    shape = 2, channels, side, side + 1
    rows, cols = output_size(shape[2:], tuple(kernel), stride)
    grad = rng.standard_normal((2, filters, rows, cols))
    ours = slabs_grad_input(
        np.ascontiguousarray(grad.transpose(2, 1, 3, 0)),
        weight,
        stride,
        (*shape[1:], 2),
    )
    theirs = conv2d_grad_input(grad, weight, shape, stride)
    assert np.allclose(ours.transpose(3, 0, 1, 2), theirs)


def test_of_equal_numbers_the_first_wins():
    values = [
        np.array(row) for row in ([1, 2, 0, 5], [2, 2, 0, 1], [2, 1, 0, 9])
    ]
    largest, winner = knockout(values, [*np.arange(3, dtype=np.uint8)])
    assert largest.tolist() == [2, 2, 0, 9]
    assert winner.tolist() == [1, 0, 0, 2]


def test_a_place_that_wins_in_two_windows_gets_both_gradients():
    pool = cnn.MaxPool2d((1, 2), 1)
    # One row of three places; the middle one wins in both of its windows.
    grad = np.array([10.0, 20.0]).reshape(1, 1, 2, 1)
    winner = np.array([1, 0], np.uint8).reshape(1, 1, 2, 1)
    maps = unpool(grad, winner, pool, [1, 1, 1, 3, 1])
    assert maps.ravel().tolist() == [0, 30, 0]


def test_the_fused_network_computes_the_same_and_leaves_the_original():
    network, (x, labels) = two_poolings(), batch(7)
    before = [type(layer) for layer in network.layers]
    other = fuse_layers(network)
    assert [type(layer) for layer in network.layers] == before
    after = [type(layer) for layer in other.layers]
    assert after == [ConvReLUPool, ConvReLUPool, *before[6:]]
    for net in (network, other):
        criterion = cnn.CrossEntropyLoss()
        criterion.forward(net.forward(x), labels)
        net.backward_parameters(criterion.backward())
    for a, b in zip(grads(network), grads(other), strict=True):
        assert np.allclose(a, b, 1e-10, 1e-12)
        assert not np.shares_memory(a, b)


def test_what_a_forward_kept_is_not_copied():
    network, (x, _) = two_poolings(), batch(3)
    y = network.forward(x)
    other = fuse_layers(network)
    assert all(layer._saved is None for layer in other.modules())
    network.backward(np.ones_like(y))  # the original has it still


def test_only_the_three_in_a_row_are_fused_and_nothing_derived_from_them():
    class Other(cnn.ReLU):
        pass

    rng = np.random.default_rng(0)

    def kinds(*layers):
        fused = fuse_layers(cnn.Sequential(*layers))
        return [type(layer) for layer in fused.layers]

    conv, pool = cnn.Conv2d(1, 2, 3, rng=rng), cnn.MaxPool2d(2)
    three = [cnn.Conv2d, Other, cnn.MaxPool2d]
    assert kinds(conv, Other(), pool) == three
    assert kinds(conv, cnn.ReLU()) == [cnn.Conv2d, cnn.ReLU]
    assert kinds(pool, conv, cnn.ReLU(), cnn.MaxPool2d(3, 1)) == [
        cnn.MaxPool2d,
        ConvReLUPool,
    ]
    assert type(fuse_layers(conv)) is cnn.Conv2d


@pytest.mark.parametrize("make", [two_poolings, two_convolutions])
@pytest.mark.parametrize("n", [1, 2, 13])
def test_predict_is_the_prediction_of_the_network(make, n):
    network = make()
    shape = (1, 12, 12) if make is two_poolings else (2, 9, 9)
    x = np.random.default_rng(0).standard_normal((n, *shape))
    expected = cnn.predict(network, x)
    fused = fuse_layers(network).eval()
    for threads, at_once in ((1, 100), (2, 3), (3, 1)):
        logits = predict(fused, x, threads, at_once)
        assert np.allclose(logits, expected, 1e-12, 1e-12)
    assert all(layer.training for layer in network.modules())
    with pytest.raises(ValueError, match="No axis may be 0"):
        predict(fused, x[:0])


@pytest.mark.parametrize("takes", [(1, 1), (1, 0), (0, 1)])
def test_keep_freed_memory_asks_for_both_or_says_no(monkeypatch, takes):
    """M_TRIM_THRESHOLD is -1 and M_MMAP_THRESHOLD is -3 in malloc.h."""
    asked = {}

    def mallopt(option: int, value: int) -> int:
        asked[option] = value
        return takes[len(asked) - 1]

    library = SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_freed_memory() is all(takes)
    assert asked.items() <= {-1: 1 << 30, -3: 1 << 25}.items()


def test_without_glibc_keep_freed_memory_says_no(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


def test_keep_freed_memory_says_whether_it_could():
    assert keep_freed_memory() == sys.platform.startswith("linux")


@pytest.mark.parametrize(
    ("n", "options", "pieces"),
    [
        (64, {}, [64]),  # before a thread would have started
        (65, {}, [1, 64]),
        (200, {}, [100, 100]),
        (300, {}, [44, 128, 128]),
        (200, {"threads": 4}, [8, 64, 64, 64]),
        (300, {"at_once": 50}, [50] * 6),
    ],
)
def test_how_images_are_dealt_to_threads(n, options, pieces):
    seen, threads = [], set()

    class Spy(cnn.Flatten):
        def forward(self, x):
            seen.append(len(x))
            threads.add(threading.get_ident())
            return super().forward(x)

    x = np.zeros((n, 1, 2, 2), np.float32)
    assert predict(Spy(), x, **options).shape == (n, 4)
    assert sorted(seen) == pieces
    assert (threading.get_ident() in threads) == (n == 64)
