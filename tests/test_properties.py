"""What must hold whatever the numbers: laws, not comparisons.

A comparison with PyTorch says that two programs agree. A law says that the
result is the thing it is called: a convolution is linear and does not care
where a picture lies, its backward is its transpose, pooling loses nothing.
"""

import copy

import numpy as np
import pytest
from conftest import CONTRACT_LAYERS
from hypothesis import assume, given
from hypothesis import strategies as st
from test_contracts import MAKERS, ROWS, numbers, same

import cnn
from cnn.beyond.fast import fuse_layers
from cnn.convolution import conv2d_grad_input, conv2d_grad_parameters
from cnn.loss import log_softmax
from cnn.windows import col2im, im2col


SEEDS = st.integers(0, 2**32 - 1)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def close(a: object, b: object, scale: float = 1.0) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * scale)


@st.composite
def convolutions(draw):
    """x, weight, stride, padding, of any sizes that fit."""
    n, c, f = (draw(st.integers(1, 3)) for _ in range(3))
    kernel, stride = draw(pairs), draw(pairs)
    padding = draw(st.tuples(*[st.integers(0, 2)] * 2))
    size = [
        draw(st.integers(max(1, k - 2 * p), 7))
        for k, p in zip(kernel, padding, strict=True)
    ]
    rng = np.random.default_rng(draw(SEEDS))
    x = rng.standard_normal((n, c, *size))
    return x, rng.standard_normal((f, c, *kernel)), stride, padding, rng


# Convolution.


@given(convolutions(), st.floats(-3, 3))
def test_convolution_is_linear_in_the_images_and_in_the_filters(drawn, a):
    x, w, *sizes, rng = drawn
    x2, w2 = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    b = rng.standard_normal(len(w))
    zero = np.zeros(len(w))
    y = cnn.conv2d(x, w, b, *sizes)
    close(
        cnn.conv2d(a * x + x2, w, b, *sizes),
        a * cnn.conv2d(x, w, zero, *sizes) + cnn.conv2d(x2, w, b, *sizes),
        100,
    )
    close(
        cnn.conv2d(x, a * w + w2, a * b, *sizes),
        a * y + cnn.conv2d(x, w2, zero, *sizes),
        100,
    )


@given(convolutions(), st.integers(0, 2), st.integers(0, 2))
def test_what_moves_in_the_image_moves_in_the_map(drawn, down, right):
    """By one stride in the image, by one place in the map; inside."""
    x, w, stride, _, rng = drawn
    (n, c, *size), (s, t) = x.shape, stride
    assume(size[0] >= w.shape[2] and size[1] >= w.shape[3])
    rows, cols = size[0] + s * down, size[1] + t * right
    large = rng.standard_normal((n, c, rows, cols))
    large[:, :, s * down :, t * right :] = x
    bias = rng.standard_normal(len(w))
    there = cnn.conv2d(large, w, bias, stride)[:, :, down:, right:]
    close(there, cnn.conv2d(x, w, bias, stride), 10)


@given(convolutions())
def test_each_gradient_of_a_convolution_is_its_transpose(drawn):
    """<conv(x), g> = <x, grad_input(g)> = <w, grad_weight>."""
    x, w, *sizes, rng = drawn
    y = cnn.conv2d(x, w, np.zeros(len(w)), *sizes)
    g = rng.standard_normal(y.shape)
    product = np.vdot(y, g)
    back = conv2d_grad_input(g, w, x.shape, *sizes)
    close(np.vdot(x, back), product, 1e3)
    columns = im2col(x, w.shape[2:], *sizes)
    grad_w, grad_b = conv2d_grad_parameters(g, columns, w.shape)
    close(np.vdot(w, grad_w), product, 1e3)
    close(grad_b, g.sum(axis=(0, 2, 3)), 1e3)
    for ours, theirs in zip(
        cnn.conv2d_backward(g, x, w, *sizes),
        (back, grad_w, grad_b),
        strict=True,
    ):
        close(ours, theirs)


@given(convolutions())
def test_col2im_is_the_transpose_of_im2col(drawn):
    x, w, *sizes, rng = drawn
    columns = im2col(x, w.shape[2:], *sizes)
    other = rng.standard_normal(columns.shape)
    back = col2im(other, x.shape, w.shape[2:], *sizes)
    assert back.shape == x.shape
    close(np.vdot(columns, other), np.vdot(x, back), 1e3)


@given(SEEDS, st.tuples(*[st.integers(1, 5)] * 3))
def test_each_gradient_of_a_linear_layer_is_its_transpose(seed, sizes):
    rng, (n, d, m) = np.random.default_rng(seed), sizes
    x, w = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    g = rng.standard_normal((n, m))
    grads = cnn.linear_backward(g, x, w)
    product = np.vdot(cnn.linear(x, w, np.zeros(m)), g)
    close(np.vdot(x, grads[0]), product, 100)
    close(np.vdot(w, grads[1]), product, 100)
    close(grads[2], g.sum(axis=0))


# Pooling and ReLU.


@st.composite
def poolings(draw):
    """x, of whole numbers and full of ties or not, and sizes that fit."""
    kernel = draw(pairs)
    stride = draw(st.none() | pairs)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = [draw(st.integers(k, 7)) for k in kernel]
    rng = np.random.default_rng(draw(SEEDS))
    x = 3 * rng.standard_normal((*draw(pairs), *size))
    x = np.round(x) if draw(st.booleans()) else x
    return x, (kernel, stride, padding), rng


@given(poolings())
def test_pooling_sends_each_gradient_somewhere_once(drawn):
    """What goes in comes out: whole numbers, so to the last digit."""
    x, sizes, rng = drawn
    y = cnn.max_pool2d(x, *sizes)
    g = rng.integers(-9, 9, y.shape).astype(float)
    back = cnn.max_pool2d_backward(g, x, y, *sizes)
    assert np.array_equal(back.sum(axis=(2, 3)), g.sum(axis=(2, 3)))
    # y copies pixels: <pool(x), g> = <x, pool_backward(g)>.
    close(np.vdot(y, g), np.vdot(x, back), 1e3)


@given(poolings(), st.floats(0.1, 9), st.floats(-9, 9))
def test_pooling_commutes_with_what_keeps_the_order(drawn, a, b):
    x, sizes, _ = drawn
    y = cnn.max_pool2d(x, *sizes)
    assert np.array_equal(cnn.max_pool2d(a * x + b, *sizes), a * y + b)
    assert np.array_equal(cnn.max_pool2d(cnn.relu(x), *sizes), cnn.relu(y))


@given(SEEDS, st.floats(0, 1e6))
def test_relu_is_idempotent_and_stretches_with_its_input(seed, a):
    x = np.random.default_rng(seed).standard_normal((3, 4))
    y = cnn.relu(x)
    assert np.array_equal(cnn.relu(y), y)
    assert np.array_equal(cnn.relu(a * x), a * y)
    assert np.array_equal(y - cnn.relu(-x), x)
    close(cnn.relu_backward(x, x) * x, y**2)


# Softmax and the loss.


@st.composite
def scores(draw):
    n, k = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(SEEDS))
    z = draw(st.sampled_from([1e-3, 1, 30, 1e4])) * rng.standard_normal((n, k))
    return z, rng.integers(0, k, n), rng


@given(scores(), st.floats(-1e3, 1e3))
def test_softmax_is_a_distribution_that_shifts_do_not_change(drawn, shift):
    z, labels, rng = drawn
    p = cnn.softmax(z)
    close(p.sum(axis=1), 1)
    assert (p >= 0).all()
    shifts = shift * rng.standard_normal((len(z), 1))
    np.testing.assert_allclose(cnn.softmax(z + shifts), p, atol=1e-9)
    np.testing.assert_allclose(
        cnn.cross_entropy(z + shifts, labels),
        cnn.cross_entropy(z, labels),
        rtol=1e-9,
        atol=1e-9,
    )
    order = rng.permutation(z.shape[1])
    close(cnn.softmax(z[:, order]), p[:, order])
    close(log_softmax(z[:, order]), log_softmax(z)[:, order])
    place = np.argsort(order)[labels]
    close(cnn.cross_entropy(z[:, order], place), cnn.cross_entropy(z, labels))


@given(scores())
def test_the_gradient_of_the_loss_sums_to_zero_in_each_row(drawn):
    """To raise all logits of an image alike changes nothing."""
    z, labels, _ = drawn
    grad = cnn.cross_entropy_backward(z, labels)
    close(grad.sum(axis=1), 0)
    # Only the true class is pushed up.
    others = np.arange(z.shape[1]) != labels[:, np.newaxis]
    assert (grad[others] >= 0).all()
    assert (grad[~others] <= 0).all()
    assert cnn.cross_entropy(z, labels) >= 0


@given(SEEDS, st.integers(1, 5))
def test_metrics_do_not_mind_the_order_or_the_names_of_the_classes(seed, k):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, k, (2, 20))
    confusion = cnn.confusion_matrix(labels, predictions, k)
    assert confusion.sum() == 20
    order, names = rng.permutation(20), rng.permutation(k)
    again = cnn.confusion_matrix(labels[order], predictions[order], k)
    assert np.array_equal(again, confusion)
    renamed = cnn.confusion_matrix(names[labels], names[predictions], k)
    assert np.array_equal(renamed[np.ix_(names, names)], confusion)
    assert cnn.accuracy(renamed) == cnn.accuracy(confusion)
    for average in ("macro", "micro", "weighted"):
        close(
            cnn.average_precision_recall_f1(renamed, average),
            cnn.average_precision_recall_f1(confusion, average),
        )
    swapped = cnn.precision_recall_f1(confusion.T)
    p, r, f1 = cnn.precision_recall_f1(confusion)
    close(swapped, (r, p, f1))


# A batch is a set of images.


SHAPES = {name: shape for name, (_, shape) in CONTRACT_LAYERS.items()}


@pytest.mark.parametrize("name", MAKERS)
@given(SEEDS, st.integers(1, 5))
def test_to_permute_the_batch_permutes_the_result(name, seed, n):
    """And what an image gives does not depend on who is with it."""
    rng = np.random.default_rng(seed)
    shape = SHAPES.get(name, (4, 2, 6, 6))
    layer = MAKERS[name]().to(np.float64)
    for parameter in layer.parameters():  # biases start at 0
        parameter.value += rng.standard_normal(parameter.value.shape)
    x = rng.standard_normal((n, *shape[1:]))
    y = layer.forward(x)
    g = rng.standard_normal(y.shape)
    back = layer.backward(g)
    grads = [p.grad for p in layer.parameters()]
    order = rng.permutation(n)
    close(layer.forward(x[order]), y[order], 10)
    close(layer.backward(g[order]), back[order], 10)
    for again, grad in zip(layer.parameters(), grads, strict=True):
        close(again.grad, grad, 100)
    parts = [layer.forward(x[i : i + 1]) for i in range(n)]
    close(np.concatenate(parts), y, 10)


@given(SEEDS)
def test_to_permute_the_batch_changes_no_step(seed):
    rng = np.random.default_rng(seed)
    network = MAKERS["Sequential"]().to(np.float64)
    x, labels = rng.standard_normal((5, 2, 6, 6)), rng.integers(0, 3, 5)
    order, after = rng.permutation(5), []
    for fuse in (False, True):
        for i in (np.arange(5), order):
            ours = copy.deepcopy(network)
            ours = fuse_layers(ours) if fuse else ours
            optimizer = cnn.SGD(ours.parameters(), 0.1, 0.9, 0.01)
            for _ in range(2):
                cnn.train_step(ours, optimizer, x[i], labels[i])
            after.append(
                np.concatenate([p.value.ravel() for p in ours.parameters()])
            )
    for values in after:
        close(values, after[0], 10)


# The numbers count, not how they lie in memory.


def unaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "batch last": lambda a: np.moveaxis(
        np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0
    ),
    "all backwards": lambda a: np.flip(np.flip(a).copy()),
    "every third of a larger one": lambda a: np.kron(
        a, np.ones((3,) * a.ndim, a.dtype)
    )[(slice(1, None, 3),) * a.ndim],
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "not aligned": unaligned,
}


def read_only(a):
    view = a.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("name", ROWS)
def test_any_memory_gives_the_same_numbers_and_none_is_written_to(name):
    row = ROWS[name]
    right = row.right()
    kept = copy.deepcopy(right)
    expected = list(numbers(row.call(**right)))
    for argument, array in right.items():
        assert np.array_equal(array, kept[argument]), argument
    for layout in LAYOUTS.values():
        given_ = {k: read_only(layout(a)) for k, a in right.items()}
        for argument, array in given_.items():
            assert np.array_equal(array, kept[argument])
        found = list(numbers(row.call(**given_)))
        assert same(found, expected, 1e-12)
        for argument, array in given_.items():
            assert np.array_equal(array, kept[argument])


@pytest.mark.parametrize("name", ROWS)
def test_a_result_is_not_a_window_on_an_argument_that_moves_on(name):
    """Called again, it gives the same: nothing was kept or overwritten."""
    row = ROWS[name]
    right = row.right()
    first = [a.copy() for a in numbers(row.call(**right))]
    assert same(list(numbers(row.call(**right))), first, 0)


# Very large and very small numbers.


EXTREMES = [
    *(0.0, 5e-324, 1e-310, 1e-300, 1e-150, 1e-38, 1e38, 1e150, 1e300),
    *(float(np.finfo(kind).max) for kind in (np.float32, np.float64)),
]


@given(st.sampled_from(EXTREMES), st.sampled_from(EXTREMES), SEEDS)
def test_softmax_and_loss_are_finite_for_any_finite_logits(a, b, seed):
    rng = np.random.default_rng(seed)
    z = rng.choice([a, -a, b, -b, 0, 1], (3, 4))
    labels = rng.integers(0, 4, 3)
    # From -max to max is more than a number holds: the loss is infinite.
    with np.errstate(over="ignore"):
        p, loss = cnn.softmax(z), cnn.cross_entropy(z, labels)
        grad = cnn.cross_entropy_backward(z, labels)
    close(p.sum(axis=1), 1)
    close(grad.sum(axis=1), 0)
    assert loss >= 0
    assert np.isfinite(loss) or max(a, b) > 1e307


@given(st.sampled_from(EXTREMES), st.booleans(), SEEDS)
def test_relu_and_pooling_pass_any_number_on_as_it_is(size, single, seed):
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single and size <= 3.5e38 else np.float64
    x = rng.choice([size, -size, 0, size / 2], (2, 2, 5, 5)).astype(dtype)
    y = cnn.max_pool2d(x, 2)
    assert y.dtype == dtype
    assert np.isin(y, x).all()
    relu = cnn.relu(x)
    assert np.array_equal(relu, np.where(x > 0, x, 0))
    for back in (
        cnn.max_pool2d_backward(y, x, y, 2),
        cnn.relu_backward(x, x),
    ):
        assert np.isfinite(back).all()
        assert np.isin(back, np.append(x, 0)).all()


@pytest.mark.parametrize("name", sorted({*MAKERS} - {"BatchNorm2d"}))
@given(st.sampled_from(EXTREMES), SEEDS)
def test_a_layer_stretches_with_its_input_until_it_overflows(name, a, seed):
    """Without biases each is homogeneous: f(a * x) = a * f(x).

    But for a normalisation, which takes a mean off in evaluation.
    """
    rng = np.random.default_rng(seed)
    layer = MAKERS[name]().to(np.float64)
    x = rng.uniform(-1, 1, (2, *SHAPES.get(name, (4, 2, 6, 6))[1:]))
    y = layer.forward(x)
    g = rng.uniform(-1, 1, y.shape)
    back = layer.backward(g)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if a < 1e300:
            close_to(layer.forward(a * x), a * y)
            if a > 1e-299:  # denormals round to ties and to 0, at the kink
                close_to(layer.backward(g), back)
            layer.forward(x)
            close_to(layer.backward(a * g), a * back)


def close_to(found, right):
    """To within rounding, which below 1e-308 is coarse."""
    scale = np.abs(right).max(initial=0)
    assert np.abs(found - right).max(initial=0) <= 1e-9 * scale + 1e-320


@pytest.mark.parametrize("size", [1e150, 1e200, 1e300])
def test_a_step_on_very_large_images_is_finite_or_refused(size):
    network = MAKERS["Sequential"]().to(np.float64)
    optimizer = cnn.SGD(network.parameters(), 0.1)
    x = size * np.random.default_rng(0).uniform(-1, 1, (4, 2, 6, 6))
    labels = np.arange(4) % 3
    loss, _ = cnn.train_step(network, optimizer, x, labels)
    assert np.isfinite(loss)
    # Its update was as large as the images. What follows overflows.
    before = network.state_dict()
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"the loss is .* expected a finite"),
    ):
        cnn.train_step(network, optimizer, x, labels)
    for key, value in network.state_dict().items():
        assert np.array_equal(value, before[key])
