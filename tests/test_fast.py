"""The fast layers: the same numbers in fewer passes over memory."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cnn
from cnn.beyond.fast import (
    ConvReLUPool,
    from_hcwn,
    keep_freed_memory,
    matmul_in_pieces,
    pool_halves,
    quicker,
    sliding_windows,
    to_hcwn,
    unpool_halves,
    windows_in_halves,
)
from cnn.beyond.parallel import parameters_to_vector
from cnn.training import partial_step


def build(seed: int = 0) -> cnn.Sequential:
    """Two convolutions, with all that the fast step rearranges."""
    rng = np.random.default_rng(seed)
    return cnn.Sequential(
        cnn.Conv2d(1, 3, 3, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Conv2d(3, 4, 2, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(3, 1),
        cnn.Flatten(),
        cnn.Linear(4 * 2 * 2, 5, rng=rng),
    ).to(np.float64)


def batch(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 1, 12, 12)), rng.integers(0, 5, n)


def values(network: cnn.Layer) -> np.ndarray:
    return parameters_to_vector(p.value for p in network.parameters())


def grads(network: cnn.Layer) -> np.ndarray:
    return parameters_to_vector(p.grad for p in network.parameters())


def in_halves(block: np.ndarray) -> np.ndarray:
    """(H, C, W, N) -> (2, H, C, WN/2): even places of a row, and odd."""
    halves = np.stack([block[:, :, ::2], block[:, :, 1::2]])
    return halves.reshape(*halves.shape[:3], -1)


@given(st.tuples(*[st.integers(1, 3)] * 4), st.booleans(), st.integers(0, 99))
def test_pooling_halves_is_pytorchs_with_its_choice_among_equals(
    sizes, ties, seed
):
    rng = np.random.default_rng(seed)
    n, channels, rows, cols = sizes
    x = rng.standard_normal((n, channels, 2 * rows, 2 * cols))
    x = (np.round(x) if ties else x).astype(np.float32)
    theirs = torch.from_numpy(x).requires_grad_()
    expected = nn.MaxPool2d(2)(theirs)
    y, winners = pool_halves(in_halves(to_hcwn(x)))
    shaped = from_hcwn(y.reshape(rows, channels, cols, n))
    assert np.array_equal(shaped, expected.detach().numpy())
    grad = rng.standard_normal(shaped.shape).astype(np.float32)
    expected.backward(torch.from_numpy(grad))
    maps = unpool_halves(to_hcwn(grad).reshape(y.shape), winners)
    assert np.array_equal(maps, in_halves(to_hcwn(theirs.grad.numpy())))
    assert maps.dtype == np.float32


@given(
    st.tuples(*[st.integers(1, 3)] * 4),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(0, 2)] * 2),
)
def test_windows_in_halves_are_all_windows_in_another_order(
    sizes, stride, padding
):
    n, channels, *kernel = sizes
    x = np.random.default_rng(0).standard_normal((n, channels, 10, 11))
    y = sliding_windows(x, tuple(kernel), stride, padding)  # (H', kCk, W'N)
    y = y.reshape(*y.shape[:2], -1, n)
    rows, cols = len(y) // 2 * 2, y.shape[2] // 2 * 2
    ours = windows_in_halves(x, tuple(kernel), stride, padding)
    assert np.array_equal(ours, in_halves(y[:rows, :, :cols]))
    assert not ours.flags.writeable


@pytest.mark.parametrize("columns", [1, 16, 130])
@pytest.mark.parametrize("size", [1, 300, 20_000, 100_000])
def test_a_product_in_pieces_is_the_product(columns, size, monkeypatch):
    rng = np.random.default_rng(columns)
    matrix = rng.standard_normal((min(size, 2), size))
    stack = rng.standard_normal((2, size, columns))
    out = np.full((2, len(matrix), columns), np.nan)
    pieces, matmul = [], np.matmul

    def counted(a, b, out):
        pieces.append(b.shape[-1])
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", counted)
    matmul_in_pieces(matrix, stack, out)
    assert np.allclose(out, matrix @ stack)
    if 16 * matrix.size <= 10**6:
        assert matrix.size * max(pieces) <= 10**6
    else:
        assert pieces == [columns]


@given(
    st.tuples(*[st.integers(1, 3)] * 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_the_fused_layer_is_convolution_relu_and_pooling(
    sizes, stride, padding, seed
):
    (n, channels, kernel), rng = sizes, np.random.default_rng(seed)
    conv = cnn.Conv2d(channels, 4, kernel, stride, padding, rng=rng)
    conv.bias.value = rng.standard_normal(4)
    three = cnn.Sequential(conv, cnn.ReLU(), cnn.MaxPool2d(2)).to(np.float64)
    fused = ConvReLUPool(conv)
    x = rng.standard_normal((n, channels, 9, 8))
    y = three.forward(x)
    grad = rng.standard_normal(y.shape)
    grad_input = three.backward(grad)
    expected = grads(three)
    assert np.allclose(fused.forward(x), y)
    for p in fused.parameters():
        p.grad = np.full_like(p.grad, np.nan)
    assert np.allclose(fused.backward(grad), grad_input)
    assert np.allclose(grads(fused), expected)
    for p in fused.parameters():
        p.grad = np.full_like(p.grad, np.nan)
    fused.backward_parameters(grad)
    assert np.allclose(grads(fused), expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 6, 6), "in_channels to 2"),
        ((3, 6, 6), r"\(N, C, H, W\)"),
        ((0, 3, 6, 6), "N at least 1"),
        ((1, 3, 3, 6), "kernel_size 2 is larger than the input"),
    ],
)
def test_the_fused_layer_names_images_that_do_not_fit(shape, message):
    fused = ConvReLUPool(cnn.Conv2d(3, 4, 3, rng=np.random.default_rng(0)))
    with pytest.raises(ValueError, match=message):
        fused.forward(np.zeros(shape))


def test_quicker_network_computes_the_same_and_leaves_the_original():
    network, (x, labels) = build(), batch(7)
    before = [type(layer) for layer in network.layers]
    other = quicker(network)
    assert [type(layer) for layer in network.layers] == before
    # The second pooling overlaps its windows.
    after = [type(layer) for layer in other.layers]
    assert after == [ConvReLUPool, *before[3:]]
    a, b = (partial_step(n, x, labels, 7) for n in (network, other))
    assert a == pytest.approx(b)
    assert np.allclose(grads(network), grads(other))
    for mine, its in zip(
        network.parameters(), other.parameters(), strict=True
    ):
        assert np.array_equal(mine.value, its.value)
        assert not np.shares_memory(mine.value, its.value)


def test_the_fused_layer_computes_in_the_type_that_the_three_do():
    conv = cnn.Conv2d(1, 2, 3, rng=np.random.default_rng(0))  # float32
    three = cnn.Sequential(conv, cnn.ReLU(), cnn.MaxPool2d(2))
    x, _ = batch(3)  # float64
    y = ConvReLUPool(conv).forward(x)
    assert y.dtype == three.forward(x).dtype == np.float64
    assert np.allclose(y, three.forward(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (2, 1), (2, 2, 1), ((2, 1),)])
def test_quicker_keeps_other_poolings(sizes):
    conv = cnn.Conv2d(1, 2, 3, rng=np.random.default_rng(0))
    three = cnn.Sequential(conv, cnn.ReLU(), cnn.MaxPool2d(*sizes))
    kinds = [type(layer) for layer in quicker(three).layers]
    assert kinds == [cnn.Conv2d, cnn.ReLU, cnn.MaxPool2d]


def test_quicker_keeps_layers_that_only_derive_from_ours():
    class Other(cnn.ReLU):
        pass

    conv = cnn.Conv2d(1, 2, 3, rng=np.random.default_rng(0))
    layers = quicker(cnn.Sequential(conv, Other(), cnn.MaxPool2d(2))).layers
    assert [type(layer) for layer in layers[1:]] == [Other, cnn.MaxPool2d]


def test_keep_freed_memory_says_whether_it_could():
    assert keep_freed_memory() == sys.platform.startswith("linux")
