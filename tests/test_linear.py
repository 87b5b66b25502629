"""linear and Flatten against PyTorch, their loop definition and differences.

Sizes N, D, M are drawn apart, so that a transposed product cannot pass.
"""

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st

from cnn.gradient_check import check_gradients
from cnn.linear import Flatten, Linear, linear, linear_backward
from cnn.windows import from_chwn


SIZES = st.tuples(*3 * [st.integers(1, 9)])
SEEDS = st.integers(0, 2**32 - 1)


def draw(sizes, seed):
    """x (N, D), weight (M, D), bias (M,), grad_output (N, M)."""
    (n, d, m), rng = sizes, np.random.default_rng(seed)
    shapes = (n, d), (m, d), (m,), (n, m)
    return [rng.standard_normal(shape) for shape in shapes]


@given(SIZES, SEEDS)
def test_forward_and_backward_agree_with_pytorch(sizes, seed):
    x, weight, bias, grad_output = draw(sizes, seed)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = torch.nn.functional.linear(*tensors)
    y.backward(torch.tensor(grad_output))

    np.testing.assert_allclose(
        linear(x, weight, bias), y.detach().numpy(), rtol=1e-10, atol=1e-10
    )
    gradients = linear_backward(grad_output, x, weight)
    for ours, tensor in zip(gradients, tensors, strict=True):
        assert ours.shape == tensor.shape
        np.testing.assert_allclose(
            ours, tensor.grad.numpy(), rtol=1e-10, atol=1e-10
        )


@given(SIZES, SEEDS)
def test_forward_is_the_sum_that_defines_it(sizes, seed):
    x, weight, bias, _ = draw(sizes, seed)
    y = linear(x, weight, bias)
    for n, m in np.ndindex(y.shape):
        products = [w * v for w, v in zip(weight[m], x[n], strict=True)]
        assert y[n, m] == pytest.approx(sum(products) + bias[m], abs=1e-12)


@given(st.tuples(*3 * [st.integers(1, 5)]), SEEDS)
def test_layer_agrees_with_differences(sizes, seed):
    rng = np.random.default_rng(seed)
    n, d, m = sizes
    layer = Linear(d, m, rng=rng).to(np.float64)
    errors = check_gradients(layer, rng.standard_normal((n, d)), rng)
    assert set(errors) == {"input", "weight", "bias"}
    assert max(errors.values()) < 1e-7, errors


def test_bias_gradient_is_the_sum_over_the_batch_not_the_mean():
    _, _, grad_bias = linear_backward(
        np.ones((6, 2)), np.zeros((6, 3)), np.zeros((2, 3))
    )
    np.testing.assert_array_equal(grad_bias, [6, 6])


def test_pencil_example_of_the_chapter():
    x = np.array([[1, 2, -1], [0, 1, 3]])
    weight, bias = np.array([[2, 0, 1], [-1, 1, 2]]), np.array([1, -2])
    y = linear(x, weight, bias)
    np.testing.assert_array_equal(y, [[2, -3], [4, 5]])
    gradients = linear_backward(np.array([[1, -1], [2, 3]]), x, weight)
    np.testing.assert_array_equal(gradients[0], [[3, -1, -1], [1, 3, 8]])
    np.testing.assert_array_equal(gradients[1], [[1, 4, 5], [-1, 1, 10]])
    np.testing.assert_array_equal(gradients[2], [3, 2])


def test_batch_lies_last_in_memory():
    x, weight, bias, grad_output = draw((4, 3, 2), seed=0)
    grad_input, _, _ = linear_backward(grad_output, x, weight)
    for y in (linear(x, weight, bias), grad_input):
        assert y.T.flags.c_contiguous, "the N of one output: side by side"


def test_first_weights_are_as_large_as_promised_and_repeatable():
    first = Linear(400, 300, rng=np.random.default_rng(5))
    again = Linear(400, 300, rng=np.random.default_rng(5))
    assert first.weight.value.shape == (300, 400)  # as PyTorch has it
    assert first.weight.value.dtype == first.bias.value.dtype == np.float32
    np.testing.assert_array_equal(first.weight.value, again.weight.value)
    assert first.weight.value.std() == pytest.approx(
        np.sqrt(2 / 400), rel=0.02
    )
    assert not first.bias.value.any()
    assert list(first.named_parameters()) == ["weight", "bias"]


def test_wrong_number_of_features_is_named():
    layer = Linear(5, 2, rng=np.random.default_rng(0))
    with pytest.raises(
        ValueError,
        match=in_order(
            *("linear was given x of shape", (3, 7), "expected (N, D)"),
            *("D is 5", (2, 5), "Set in_features to 7"),
        ),
    ):
        layer.forward(np.zeros((3, 7)))


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        ((0, 5), "No axis may be 0"),
        ((5,), "x[np.newaxis] is a batch of 1"),
        ((2, 1, 5), "Flatten()"),
    ],
)
def test_what_is_no_batch_of_rows_is_named(shape, way):
    layer = Linear(5, 2, rng=np.random.default_rng(0))
    with pytest.raises(
        ValueError,
        match=in_order(
            "linear was given x of shape", shape, "expected (N, D)", way
        ),
    ):
        layer.forward(np.zeros(shape))


SHAPES = st.tuples(*4 * [st.integers(1, 5)])


@given(SHAPES, st.booleans())
def test_flatten_agrees_with_pytorch_in_either_memory_format(shape, last):
    n, c, h, w = shape
    numbers = np.arange(n * c * h * w, dtype=np.float64)
    x = numbers.reshape(shape)
    if last:
        x = from_chwn(numbers.reshape(c, h, w, n))
    layer = Flatten()
    flat = layer.forward(x)
    expected = torch.flatten(torch.tensor(x.copy()), start_dim=1)
    np.testing.assert_array_equal(flat, expected.numpy())
    assert np.shares_memory(flat, x)  # a view, in either order
    assert flat.T.flags.c_contiguous if last else flat.flags.c_contiguous
    back = layer.backward(flat)
    np.testing.assert_array_equal(back, x)


def test_flatten_names_itself():
    with pytest.raises(ValueError, match=r"^Flatten was given x of shape"):
        Flatten().forward(np.zeros(()))


def test_an_image_is_flattened_the_same_alone_and_in_a_batch():
    x = from_chwn(np.arange(24.0).reshape(1, 2, 3, 4))
    for n in range(len(x)):
        alone = Flatten().forward(x[n : n + 1])
        np.testing.assert_array_equal(alone[0], Flatten().forward(x)[n])


def test_gradients_of_flatten():
    rng = np.random.default_rng(0)
    x = from_chwn(rng.standard_normal((2, 3, 4, 5)))
    assert check_gradients(Flatten(), x, rng)["input"] < 1e-8
