"""Max pooling beside PyTorch's, in float64; ties, overlap, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnn import MaxPool2d, check_gradients, max_pool2d, max_pool2d_backward


@st.composite
def cases(draw):
    """x (N, C, H, W), whole numbers (full of ties) or not, and the sizes."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(
        draw(st.integers(max(1, k - 2 * p), 9))
        for k, p in zip(kernel, padding, strict=True)
    )
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *size)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        x = rng.integers(-2, 2, shape).astype(float)
    else:
        x = rng.standard_normal(shape)
    if draw(st.booleans()):  # as the layers before it lay it out in memory
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    return x, kernel, stride, padding, rng


def torch_max_pool2d(x, *sizes):
    x = torch.tensor(x.copy(), requires_grad=True)
    return x, torch.nn.functional.max_pool2d(x, *sizes)


@given(cases())
def test_forward_agrees_with_pytorch(case):
    x, kernel, stride, padding, _ = case
    _, expected = torch_max_pool2d(x, kernel, stride, padding)
    y = max_pool2d(x, kernel, stride, padding)
    np.testing.assert_array_equal(y, expected.detach().numpy())


@given(cases())
def test_backward_agrees_with_pytorch(case):
    x, kernel, stride, padding, rng = case
    x_torch, y_torch = torch_max_pool2d(x, kernel, stride, padding)
    grad_output = rng.standard_normal(y_torch.shape)
    y_torch.backward(torch.tensor(grad_output))
    y = max_pool2d(x, kernel, stride, padding)
    grad_input = max_pool2d_backward(
        grad_output, x, y, kernel, stride, padding
    )
    assert x_torch.grad is not None
    np.testing.assert_allclose(
        grad_input, x_torch.grad.numpy(), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    "sizes",
    [(2,), (3, 1), (3, 2, 1), (2, 3, 1), ((2, 3), (1, 2), (1, 0)), (4, 3, 2)],
)
def test_gradient_agrees_with_finite_differences(sizes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 7, 8))
    assert check_gradients(MaxPool2d(*sizes), x, rng)["input"] < 1e-8


def test_stride_is_the_kernel_size_unless_given():
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 6))
    expected = max_pool2d(x, (2, 3), (2, 3))
    assert np.array_equal(max_pool2d(x, (2, 3)), expected)
    assert np.array_equal(MaxPool2d((2, 3)).forward(x), expected)
    ones = np.ones_like(expected)
    assert np.array_equal(
        max_pool2d_backward(ones, x, expected, (2, 3)),
        max_pool2d_backward(ones, x, expected, (2, 3), (2, 3)),
    )


def test_layer_is_the_two_functions():
    rng = np.random.default_rng(0)
    sizes = (3, 2), (2, 1), (1, 0)
    x, layer = rng.standard_normal((2, 3, 6, 5)), MaxPool2d(*sizes)
    y = max_pool2d(x, *sizes)
    grad_output = rng.standard_normal(y.shape)
    assert np.array_equal(layer.forward(x), y)
    assert np.array_equal(
        layer.backward(grad_output),
        max_pool2d_backward(grad_output, x, y, *sizes),
    )
    assert layer.parameters() == []


def test_windows_are_squares_not_runs_of_a_row():
    # A reshape to (N, C, H', W', k, k) gives the same shape and 3, 7, 11, 15.
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    assert max_pool2d(x, 2).ravel().tolist() == [5, 7, 13, 15]


def test_tied_window_gives_its_gradient_once_and_to_the_first():
    x = np.zeros((1, 1, 4, 4))
    grad = max_pool2d_backward(
        np.full((1, 1, 2, 2), 3.0), x, x[..., :2, :2], 2
    )
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 3
    assert np.array_equal(grad[0, 0], expected)


def test_winner_of_overlapping_windows_collects_from_each():
    x = np.array([1.0, 4, 2, 3, 0]).reshape(1, 1, 1, 5)
    y = max_pool2d(x, (1, 3), 1)
    grad_output = np.array([1.0, 2, 5]).reshape(1, 1, 1, 3)
    grad = max_pool2d_backward(grad_output, x, y, (1, 3), 1)
    assert y.ravel().tolist() == [4, 4, 3]
    assert grad.ravel().tolist() == [0, 3, 0, 5, 0]


def test_padding_never_wins_not_even_against_negative_numbers():
    x = -np.arange(1.0, 10).reshape(1, 1, 3, 3)
    y = max_pool2d(x, 3, 2, 1)
    assert y.ravel().tolist() == [-1, -2, -4, -5]
    grad = max_pool2d_backward(np.ones_like(y), x, y, 3, 2, 1)
    assert grad.sum() == y.size  # nothing is lost in the frame


def test_rows_that_no_window_reads_get_gradient_zero():
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 7))
    y = max_pool2d(x, 2)
    grad = max_pool2d_backward(np.ones_like(y), x, y, 2)
    assert y.shape == (2, 2, 2, 3)
    assert grad.shape == x.shape
    assert not grad[:, :, 4].any()
    assert not grad[..., 6].any()
    assert grad.sum() == y.size


def test_every_image_and_channel_gets_its_gradient():
    # A return inside a loop over them would leave all but the first at 0.
    x = np.random.default_rng(0).standard_normal((4, 3, 4, 4))
    y = max_pool2d(x, 2)
    grad = max_pool2d_backward(np.ones_like(y), x, y, 2)
    assert (grad.sum(axis=(2, 3)) == 4).all()


def test_dtype_is_kept_and_arguments_are_not_changed():
    rng = np.random.default_rng(0)
    for padding in (0, 1):
        x = rng.standard_normal((2, 2, 5, 5)).astype(np.float32)
        kept = x.copy()
        y = max_pool2d(x, 3, 2, padding)
        grad_output = np.ones_like(y)
        grad = max_pool2d_backward(grad_output, x, y, 3, 2, padding)
        assert y.dtype == grad.dtype == np.float32
        assert np.array_equal(x, kept)
        assert (grad_output == 1).all()
        y[...] = 0  # y must not be a view of x
        assert np.array_equal(x, kept)


@pytest.mark.parametrize(
    ("shape", "sizes", "given_expected_way_out"),
    [
        ((1, 1, 4, 4), (2, 0), "stride is 0; expected .* at least 1"),
        ((1, 1, 4, 4), (0,), "kernel_size is 0; expected .* at least 1"),
        ((1, 1, 4, 4), (2, 2, -1), "padding is -1; expected .* at least 0"),
        (
            (1, 1, 4, 4),
            (5,),
            r"kernel_size \(5, 5\) is larger than the input \(4, 4\) "
            r"with padding \(0, 0\); expected it to fit .*smaller kernel",
        ),
        (
            (1, 1, 4, 4),
            (2, 2, 2),
            "padding is 2; expected at most half of kernel_size 2.*"
            "Use less padding",
        ),
        ((1, 1, 4, 4), ((3, 4), 1, 2), "padding is 2; expected at most half"),
        (
            (1, 1, 4, 4),
            ((4, 2), 1, (1, 2)),
            r"padding is \(1, 2\); expected at most half .*\(4, 2\)",
        ),
        (
            (0, 1, 4, 4),
            (2,),
            r"max_pool2d was given .*\(0, 1, 4, 4\); expected "
            r"\(N, C, H, W\).*No axis may be 0",
        ),
        ((4, 4), (2,), r"\(4, 4\); expected \(N, C, H, W\).*x.reshape"),
    ],
)
def test_bad_input_is_refused(shape, sizes, given_expected_way_out):
    with pytest.raises(ValueError, match=given_expected_way_out):
        max_pool2d(np.zeros(shape), *sizes)


def test_layer_refuses_bad_sizes_at_once():
    with pytest.raises(ValueError, match="stride is 0; expected"):
        MaxPool2d(2, 0)
    with pytest.raises(ValueError, match="kernel_size is 0; expected"):
        MaxPool2d(0)
