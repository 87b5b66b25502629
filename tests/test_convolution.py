"""Convolution against PyTorch, against its definition, and against misuse."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.signal import correlate2d

from cnn.convolution import (
    Conv2d,
    conv2d,
    conv2d_backward,
    conv2d_grad_input,
    conv2d_grad_parameters,
)
from cnn.gradient_check import (
    check_gradients,
    numerical_gradient,
    relative_error,
)
from cnn.windows import from_chwn, im2col, to_chwn


@dataclass(frozen=True)
class Case:
    """The sizes of a convolution, and the seed of its numbers."""

    n: int
    channels: int
    filters: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    seed: int = 0

    def arrays(self):
        """x, weight, bias and the generator they came from."""
        rng = np.random.default_rng(self.seed)
        return (
            rng.standard_normal((self.n, self.channels, *self.size)),
            rng.standard_normal((self.filters, self.channels, *self.kernel)),
            rng.standard_normal(self.filters),
            rng,
        )

    @property
    def steps(self):
        """Stride and padding, as keywords."""
        return {"stride": self.stride, "padding": self.padding}


@st.composite
def cases(draw):
    """Any convolution that the formula allows, of small sizes."""
    size = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    kernel = tuple(
        draw(st.integers(1, h + 2 * p))
        for h, p in zip(size, padding, strict=True)
    )
    return Case(
        n=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 3)),
        filters=draw(st.integers(1, 4)),
        size=size,
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        padding=padding,
        seed=draw(st.integers(0, 2**16)),
    )


# Cases that must be among those tried, whatever hypothesis draws.
LEFTOVER = Case(2, 2, 3, (8, 8), (3, 3), (2, 2))  # row 7 is never read
HALVING = Case(1, 1, 1, (28, 28), (3, 3), (2, 2), (1, 1))  # 28 -> 14
RECTANGULAR = Case(2, 3, 2, (7, 5), (2, 4), (3, 1), (0, 2))
WHOLE = Case(2, 2, 3, (4, 3), (6, 7), (1, 1), (1, 2))  # kernel = padded x
SINGLE = Case(1, 1, 1, (1, 1), (1, 1))
GAPS = Case(2, 2, 2, (7, 7), (1, 2), (3, 4))  # stride larger than kernel
NAMED = (LEFTOVER, HALVING, RECTANGULAR, WHOLE, SINGLE, GAPS)


def in_turn(test):
    """Run a test of drawn cases on the named ones too."""
    for case in NAMED:
        test = example(case)(test)
    return test


def in_torch(case):
    """PyTorch's x, weight, bias and y, ready for its backward."""
    x, weight, bias, _ = case.arrays()
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, weight, bias)]
    y = torch.nn.functional.conv2d(
        *leaves, stride=case.stride, padding=case.padding
    )
    return (*leaves, y)


def close(ours, theirs):
    """Equal shapes, and equal to 1e-10."""
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(
        ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-10
    )


# --- against PyTorch --------------------------------------------------------


@in_turn
@given(cases())
def test_forward_agrees_with_pytorch(case):
    x, weight, bias, _ = case.arrays()
    *_, theirs = in_torch(case)
    close(conv2d(x, weight, bias, **case.steps), theirs)


@in_turn
@given(cases())
def test_backward_agrees_with_pytorch(case):
    x, weight, _, rng = case.arrays()
    leaves = in_torch(case)
    y = leaves[-1]
    grad_output = rng.standard_normal(tuple(y.shape))
    y.backward(torch.from_numpy(grad_output))
    ours = conv2d_backward(grad_output, x, weight, **case.steps)
    for mine, leaf in zip(ours, leaves[:3], strict=True):
        close(mine, leaf.grad)


@in_turn
@given(cases())
def test_forward_agrees_with_scipy(case):
    x, weight, bias, _ = case.arrays()
    (top, left), (down, right) = case.padding, case.stride
    framed = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    y = conv2d(x, weight, bias, **case.steps)
    for n, f in np.ndindex(y.shape[:2]):
        channels = zip(framed[n], weight[f], strict=True)
        whole = sum(correlate2d(*pair, mode="valid") for pair in channels)
        np.testing.assert_allclose(
            y[n, f], (bias[f] + whole)[::down, ::right], atol=1e-10
        )


@given(cases())
def test_the_layer_is_the_functions(case):
    x, weight, bias, rng = case.arrays()
    layer = Conv2d(
        case.channels, case.filters, case.kernel, rng=rng, **case.steps
    )
    layer.weight.value, layer.bias.value = weight, bias
    y = layer.forward(x)
    np.testing.assert_array_equal(y, conv2d(x, weight, bias, **case.steps))
    grad_output = rng.standard_normal(y.shape)
    grads = conv2d_backward(grad_output, x, weight, **case.steps)
    grad_input = layer.backward(grad_output)
    for ours, expected in zip(
        (grad_input, layer.weight.grad, layer.bias.grad), grads, strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_an_int_serves_both_axes():
    x, weight, bias, rng = LEFTOVER.arrays()
    y = conv2d(x, weight, bias, stride=2, padding=1)
    pairs = {"stride": (2, 2), "padding": (1, 1)}
    np.testing.assert_array_equal(y, conv2d(x, weight, bias, **pairs))
    layer = Conv2d(2, 3, 3, stride=2, padding=1, rng=rng)
    assert layer.weight.value.shape == (3, 2, 3, 3)
    assert (layer.stride, layer.padding) == ((2, 2), (1, 1))


# --- against the definition, a pencil, and measured gradients ---------------


def conv2d_loops(x, weight, bias, stride, padding):
    """The definition, index by index, in plain Python numbers."""
    (s, t), (p, q) = stride, padding
    n, channels, height, width = x.shape
    filters, _, k, m = weight.shape
    rows = len(
        [i for i in range(0, height + 2 * p, s) if i + k <= height + 2 * p]
    )
    columns = len(
        [j for j in range(0, width + 2 * q, t) if j + m <= width + 2 * q]
    )
    y = np.zeros((n, filters, rows, columns))
    for place in np.ndindex(y.shape):
        image, f, i, j = place
        y[place] = bias[f]
        for c, u, v in np.ndindex(channels, k, m):
            a, d = s * i + u - p, t * j + v - q
            if 0 <= a < height and 0 <= d < width:
                y[place] += weight[f, c, u, v] * x[image, c, a, d]
    return y


@pytest.mark.parametrize("case", [c for c in NAMED if c is not HALVING])
def test_forward_is_its_definition(case):
    x, weight, bias, _ = case.arrays()
    expected = conv2d_loops(x, weight, bias, **case.steps)
    y = conv2d(x, weight, bias, **case.steps)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_the_pencil_example_and_that_no_kernel_is_flipped():
    x = np.array([1.0, 2, 0, -1, 3]).reshape(1, 1, 1, 5)
    weight = np.array([1.0, 2, -1]).reshape(1, 1, 1, 3)
    y = conv2d(x, weight, np.zeros(1))
    assert y.ravel().tolist() == [5, 3, -5]
    grad_output = np.array([1.0, 2, 3]).reshape(y.shape)
    grad_x, grad_w, grad_b = conv2d_backward(grad_output, x, weight)
    assert grad_x.ravel().tolist() == [1, 4, 6, 4, -3]
    assert grad_w.ravel().tolist() == [5, -1, 7]
    assert grad_b.tolist() == [6]


@pytest.mark.parametrize("case", [c for c in NAMED if c is not HALVING])
def test_gradients_are_those_measured(case):
    x, *_, rng = case.arrays()
    layer = Conv2d(
        case.channels, case.filters, case.kernel, rng=rng, **case.steps
    ).to(np.float64)
    errors = check_gradients(layer, x, rng)
    assert errors.keys() == {"input", "weight", "bias"}
    assert max(errors.values()) < 1e-8, errors


def test_grad_input_measured_with_a_step_of_one():
    """The output is linear in x: nothing but rounding is left."""
    x, weight, bias, rng = LEFTOVER.arrays()
    r = rng.standard_normal(conv2d(x, weight, bias, 2).shape)

    def loss(x):
        return float(np.sum(r * conv2d(x, weight, bias, 2)))

    ours = conv2d_grad_input(r, weight, x.shape, 2)
    assert relative_error(ours, numerical_gradient(loss, x, h=1.0)) < 1e-12


@given(cases())
def test_backward_is_the_transpose_of_forward(case):
    """<T x, g> = <x, T'g>."""
    x, weight, _, rng = case.arrays()
    y = conv2d(x, weight, np.zeros(case.filters), **case.steps)
    g = rng.standard_normal(y.shape)
    back = conv2d_grad_input(g, weight, x.shape, **case.steps)
    np.testing.assert_allclose(np.sum(y * g), np.sum(x * back), atol=1e-9)


def test_rows_that_no_window_reads_have_a_zero_gradient():
    x, weight, bias, _ = LEFTOVER.arrays()
    y = conv2d(x, weight, bias, stride=2)
    grad_x, _, _ = conv2d_backward(np.ones_like(y), x, weight, stride=2)
    assert grad_x.shape == x.shape
    assert not grad_x[:, :, 7].any()
    assert not grad_x[:, :, :, 7].any()
    assert grad_x[:, :, :7, :7].all()


@given(cases())
def test_with_a_stride_it_is_a_full_convolution_with_zeros_between(case):
    """dL/dx: g with s - 1 zeros between, convolved with w, channel by c."""
    x, weight, _, rng = case.arrays()
    (s, t), (p, q) = case.stride, case.padding
    (height, width), (k, m) = case.size, case.kernel
    y = conv2d(x, weight, np.zeros(case.filters), **case.steps)
    g = rng.standard_normal(y.shape)
    spread = np.zeros(
        (
            case.n,
            case.filters,
            height + 2 * p + k - 1,
            width + 2 * q + m - 1,
        )
    )
    _, _, rows, cols = y.shape
    spread[
        :, :, k - 1 : k - 1 + s * rows : s, m - 1 : m - 1 + t * cols : t
    ] = g
    turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    framed = conv2d(spread, turned, np.zeros(case.channels))
    np.testing.assert_allclose(
        conv2d_grad_input(g, weight, x.shape, **case.steps),
        framed[:, :, p : p + height, q : q + width],
        atol=1e-12,
    )


def test_a_row_of_the_image_and_a_row_of_the_frame_that_none_reads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2, 6, 6))
    bare = Conv2d(2, 3, 3, stride=2, rng=rng).to(np.float64)
    grad = bare.backward(np.ones_like(bare.forward(x)))
    assert not grad[:, :, 5].any()
    assert not grad[:, :, :, 5].any()
    assert grad[:, :, :5, :5].all()
    framed = Conv2d(2, 3, 3, stride=2, padding=1, rng=rng).to(np.float64)
    assert framed.backward(np.ones_like(framed.forward(x))).all()
    for layer in (bare, framed):
        assert max(check_gradients(layer, x, rng).values()) < 1e-8


# --- memory -----------------------------------------------------------------


@given(cases())
def test_the_output_lies_in_memory_with_the_batch_last(case):
    x, weight, bias, _ = case.arrays()
    y = conv2d(x, weight, bias, **case.steps)
    block = y.transpose(1, 2, 3, 0)  # (F, H', W', N)
    assert block.flags.c_contiguous
    assert np.shares_memory(to_chwn(y), y)
    # What is batch last already gives the same numbers as what is not.
    again = from_chwn(to_chwn(x))
    np.testing.assert_array_equal(conv2d(again, weight, bias, **case.steps), y)


@pytest.mark.parametrize("case", NAMED)
def test_nothing_mutates_its_argument(case):
    x, weight, bias, rng = case.arrays()
    y = conv2d(x, weight, bias, **case.steps)
    grad = rng.standard_normal(y.shape)
    columns = im2col(x, case.kernel, **case.steps)
    given = (x, weight, bias, grad, columns)
    kept = [a.copy() for a in given]
    for array in given:
        array.flags.writeable = False  # writing raises
    conv2d(x, weight, bias, **case.steps)
    conv2d_backward(grad, x, weight, **case.steps)
    conv2d_grad_parameters(grad, columns, weight.shape)
    layer = Conv2d(
        case.channels, case.filters, case.kernel, rng=rng, **case.steps
    ).to(np.float64)
    layer.forward(x)
    layer.backward(grad)
    for array, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(array, before)


# --- the layer --------------------------------------------------------------


def test_parameters():
    layer = Conv2d(3, 8, (3, 5), rng=np.random.default_rng(0))
    assert list(layer.named_parameters()) == ["weight", "bias"]
    weight, bias = layer.parameters()
    assert weight.value.shape == (8, 3, 3, 5)
    assert weight.value.dtype == bias.value.dtype == np.float32
    assert not bias.value.any()


def test_first_weights_have_he_s_variance():
    layer = Conv2d(16, 64, (3, 5), rng=np.random.default_rng(0))
    expected = np.sqrt(2 / (16 * 3 * 5))
    assert abs(layer.weight.value.std() / expected - 1) < 0.03
    assert abs(layer.weight.value.mean()) < 0.03 * expected


def test_same_seed_same_bits():
    one, two, other = (
        Conv2d(2, 3, 3, rng=np.random.default_rng(seed)).weight.value
        for seed in (1, 1, 2)
    )
    assert one.tobytes() == two.tobytes() != other.tobytes()


def test_backward_parameters_leaves_only_the_input_out(monkeypatch):
    x, _, _, rng = LEFTOVER.arrays()
    layer = Conv2d(2, 3, 3, stride=2, rng=rng).to(np.float64)
    grad_output = rng.standard_normal(layer.forward(x).shape)
    layer.backward(grad_output)
    expected = [p.grad.copy() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = np.full_like(parameter.grad, np.nan)

    def fail(*arguments):
        raise AssertionError("dL/dx was computed")

    monkeypatch.setattr("cnn.convolution.conv2d_grad_input", fail)
    layer.backward_parameters(grad_output)
    for parameter, before in zip(layer.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.grad, before)


# --- misuse -----------------------------------------------------------------


def small(rng_seed=0, **keywords):
    """A layer for 2 channels, with 3 filters of 3 x 3."""
    return Conv2d(2, 3, 3, rng=np.random.default_rng(rng_seed), **keywords)


def refused(*parts):
    """A ValueError that says these, in order: given, expected, way out."""
    return pytest.raises(ValueError, match=in_order(*parts))


def test_wrong_channel_count():
    with refused(
        *("x of shape", (4, 5, 8, 8), "expected (N, C, H, W)", "C is 2"),
        *((3, 2, 3, 3), "Set in_channels to 5"),
    ):
        small().forward(np.zeros((4, 5, 8, 8)))


def test_kernel_larger_than_the_padded_input():
    x, weight = np.zeros((1, 1, 4, 9)), np.zeros((1, 1, 7, 2))
    with refused(
        *((7, 2), (4, 9), (1, 0)),
        "smaller kernel or more padding",
    ):
        conv2d(x, weight, np.zeros(1), padding=(1, 0))


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("stride", 0, 1),
        ("stride", -1, 1),
        ("stride", (1, 0), 1),
        ("stride", 1.5, 1),
        ("padding", -1, 0),
        ("padding", (0, -2), 0),
        ("padding", 0.5, 0),
        ("padding", "same", 0),
        ("stride", (1, 2, 3), 1),
        ("stride", None, 1),
    ],
)
def test_nonsense_sizes(name, value, least):
    calls = (
        lambda: small(**{name: value}),
        lambda: conv2d(
            np.zeros((1, 2, 8, 8)),
            np.zeros((3, 2, 3, 3)),
            np.zeros(3),
            **{name: value},
        ),
    )
    for call in calls:
        with refused(
            f"{name} is {value!r}; expected an int or a pair of ints",
            *(f"at least {least}", "Pass one number, or (rows, columns)"),
        ):
            call()


@pytest.mark.parametrize("kernel", [0, (3, 0), 2.0, (3,), [3, 3, 3]])
def test_nonsense_kernels(kernel):
    with refused(f"kernel_size is {kernel!r}", "at least 1"):
        Conv2d(1, 1, kernel, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        ((2, 8, 8), "Add an axis: x[np.newaxis]"),
        ((8, 8), "x.reshape"),
        ((1, 1, 2, 8, 8), "x.reshape"),
        ((128,), "x.reshape"),
    ],
)
def test_wrong_number_of_axes(shape, way):
    with refused(shape, "expected (N, C, H, W)", way):
        small().forward(np.zeros(shape))


def test_empty_batch():
    with refused((0, 2, 8, 8), "expected", "No axis may be 0"):
        small().forward(np.zeros((0, 2, 8, 8)))


def test_a_refused_forward_leaves_the_last_one_in_place():
    layer = small().to(np.float64)
    y = layer.forward(np.ones((1, 2, 5, 5)))
    with refused((1, 5, 8, 8), "C is 2"):
        layer.forward(np.zeros((1, 5, 8, 8)))
    assert layer.backward(np.ones_like(y)).shape == (1, 2, 5, 5)
