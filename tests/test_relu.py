"""relu against PyTorch, its loop definition and differences."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cnn.gradient_check import check_gradients, numerical_gradient
from cnn.relu import ReLU, relu, relu_backward
from cnn.windows import from_chwn


SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


@given(SHAPES, SEEDS, st.booleans())
def test_forward_and_backward_agree_with_pytorch(shape, seed, whole):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if whole:  # whole numbers: many of them are exactly 0, the bend
        x = np.round(x)
    grad_output = rng.standard_normal(shape)
    tensor = torch.tensor(x, requires_grad=True)
    y = torch.relu(tensor)
    y.backward(torch.tensor(grad_output))
    np.testing.assert_array_equal(relu(x), y.detach().numpy())
    np.testing.assert_allclose(
        relu_backward(grad_output, x), tensor.grad.numpy(), rtol=0, atol=1e-10
    )


@given(st.floats(width=64), st.floats(width=64))
@example(np.nan, 1.0)
@example(0.0, np.inf)
def test_one_number_is_its_definition(number, gradient):
    """Any float there is: infinite, nan, -0.0, the smallest ones."""
    y = float(relu(np.array([number]))[0])
    grad = float(relu_backward(np.array([gradient]), np.array([number]))[0])
    if np.isnan(number):
        assert np.isnan(y)
    else:
        assert y == (number if number > 0 else 0)
    # A nan lets it through, as in PyTorch; a shut gate stops infinity too.
    expected = 0 if number <= 0 else gradient
    assert grad == expected or np.isnan([grad, expected]).all()


def test_at_the_bend_the_derivative_is_0_and_a_difference_says_a_half():
    bend = np.zeros(1)
    np.testing.assert_array_equal(relu_backward(np.ones(1), bend), [0])
    measured = numerical_gradient(lambda x: float(relu(x).sum()), bend)
    assert measured == pytest.approx(0.5)


@given(SHAPES, SEEDS)
def test_layer_agrees_with_differences_away_from_the_bend(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    x += 0.1 * np.sign(x)
    assert check_gradients(ReLU(), x, rng)["input"] < 1e-8


def test_backward_is_the_product_with_the_diagonal_jacobian():
    rng = np.random.default_rng(0)
    x, grad_output = rng.standard_normal((2, 7))
    jacobian = torch.autograd.functional.jacobian(torch.relu, torch.tensor(x))
    np.testing.assert_allclose(
        relu_backward(grad_output, x), grad_output @ jacobian.numpy()
    )


def test_nan_is_not_hidden():
    y = relu(np.array([np.nan, np.inf, -np.inf]))
    np.testing.assert_array_equal(y, [np.nan, np.inf, 0])


def test_gates_are_those_of_the_last_forward_not_of_the_gradient():
    layer = ReLU()
    layer.forward(np.array([-1.0, -1.0]))
    layer.forward(np.array([1.0, -1.0]))
    np.testing.assert_array_equal(
        layer.backward(np.array([-3.0, 3.0])), [-3, 0]
    )


def test_a_shortcut_around_relu_gets_the_whole_gradient():
    """y = x + relu(x): the gradient is used twice, and must stay whole."""
    x, grad_output = np.array([-1.0, 2.0]), np.array([5.0, 7.0])
    layer = ReLU()
    layer.forward(x)
    grad_input = layer.backward(grad_output) + grad_output
    np.testing.assert_array_equal(grad_input, [5, 14])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_memory_format_are_kept_both_ways(dtype):
    rng = np.random.default_rng(0)
    block = rng.standard_normal((2, 3, 4, 5)).astype(dtype)
    x = from_chwn(block)
    layer = ReLU()
    y = layer.forward(x)
    grad_input = layer.backward(np.ones_like(x))
    assert y.dtype == grad_input.dtype == dtype
    assert y.strides == grad_input.strides == x.strides


def test_a_unit_that_answers_to_nothing_gets_no_gradient():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 3))
    z[:, 1] -= z[:, 1].max()  # at best exactly 0
    grad = relu_backward(rng.standard_normal((50, 3)), z)
    assert not grad[:, 1].any()
    assert grad[:, 0].any()
    assert grad[:, 2].any()
