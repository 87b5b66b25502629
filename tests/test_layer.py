"""The promise: what every layer does, and what importing it costs."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import CONTRACT_LAYERS

from cnn import (
    Layer,
    Linear,
    Parameter,
    ReLU,
    Sequential,
    check_gradients,
)
from cnn.layer import check_batch


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_importing_cnn_costs_numpy_alone():
    script = (
        "import sys; import cnn; print(*sorted("
        "{name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    others = set(loaded) - set(sys.stdlib_module_names)
    heavy = {
        *("matplotlib", "torch", "torchvision", "sklearn", "tqdm", "scipy"),
        *("pandas", "IPython", "matplotlib_inline", "PIL"),
    }
    assert {"numpy", "cnn"} <= others
    assert others & heavy == set()


def test_gradients_have_the_shapes_of_what_they_are_to(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    assert layer.backward(np.ones_like(y)).shape == x.shape
    for parameter in layer.parameters():
        assert parameter.grad.shape == parameter.value.shape


def test_gradients_agree_with_differences(layer_and_x):
    layer, x = layer_and_x
    errors = check_gradients(layer.to(np.float64), x.astype(np.float64), rng())
    assert max(errors.values()) < 1e-7, errors


def test_dtype_is_kept(layer_and_x):
    layer, x = layer_and_x
    for dtype in (np.float32, np.float64):
        layer.to(dtype)
        y = layer.forward(x.astype(dtype))
        assert y.dtype == dtype
        assert layer.backward(np.ones_like(y)).dtype == dtype
        for parameter in layer.parameters():
            assert parameter.value.dtype == dtype
            assert parameter.grad.dtype == dtype


def test_nothing_given_is_changed(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    grad = rng().standard_normal(y.shape)
    given = [x, y, grad, *(p.value for p in layer.parameters())]
    kept = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False  # who writes into it, raises
    layer.backward(grad)
    assert np.array_equal(layer.forward(x), y)
    for array, before in zip(given, kept, strict=True):
        assert np.array_equal(array, before)


def test_backward_overwrites_and_repeats(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    grad = rng().standard_normal(y.shape).astype(np.float32)
    first = layer.backward(grad).copy()
    grads = [p.grad.copy() for p in layer.parameters()]
    assert np.array_equal(layer.backward(grad), first)
    for parameter, kept in zip(layer.parameters(), grads, strict=True):
        assert np.array_equal(parameter.grad, kept)


def test_backward_is_linear_in_what_it_is_given(layer_and_x):
    layer, x = layer_and_x
    layer.to(np.float64)
    y = layer.forward(x.astype(np.float64))
    a, b = rng().standard_normal((2, *y.shape))
    together = layer.backward(2 * a - 3 * b)
    apart = 2 * layer.backward(a) - 3 * layer.backward(b)
    assert np.allclose(together, apart, rtol=0, atol=1e-12)


def test_backward_parameters_gives_the_same_gradients(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    grad = rng().standard_normal(y.shape).astype(np.float32)
    layer.backward(grad)
    whole = [p.grad.copy() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = np.full_like(parameter.value, np.nan)
    layer.backward_parameters(grad)
    for parameter, kept in zip(layer.parameters(), whole, strict=True):
        assert np.array_equal(parameter.grad, kept)


@pytest.mark.parametrize("name", ["backward", "backward_parameters"])
def test_backward_before_forward(layer_and_x, name):
    layer, x = layer_and_x
    y = layer.forward(x)
    fresh = CONTRACT_LAYERS[type(layer).__name__][0]()
    whose = "" if isinstance(fresh, Sequential) else type(fresh).__name__
    with pytest.raises(
        ValueError,
        match=rf"{whose}\.backward .*before forward.*Call forward\(x\) first",
    ):
        getattr(fresh, name)(np.ones_like(y))


def test_what_one_layer_saved_is_not_anothers():
    first, second = ReLU(), ReLU()
    first.forward(np.array([[1.0]]))
    with pytest.raises(ValueError, match="before forward"):
        second.backward(np.array([[1.0]]))


def test_forward_again_replaces_what_was_saved():
    layer = ReLU()
    layer.forward(np.array([[1.0]]))
    layer.forward(np.array([[-1.0]]))
    assert layer.backward(np.array([[1.0]])) == 0


def test_saved_values_come_back_in_order():
    layer = Layer()
    layer.save_for_backward(1, "two")
    assert layer.saved() == (1, "two")


def test_a_bare_layer_promises_nothing():
    layer = Layer()
    assert layer.parameters() == []
    with pytest.raises(NotImplementedError):
        layer.forward(np.ones((1, 1)))
    with pytest.raises(NotImplementedError):
        layer.backward(np.ones((1, 1)))
    with pytest.raises(NotImplementedError):
        layer.backward_parameters(np.ones((1, 1)))


def test_parameter_starts_with_a_gradient_of_its_own():
    value = np.ones((2, 3), np.float32)
    parameter = Parameter(value, "weight")
    assert parameter.value is value
    assert parameter.name == "weight"
    assert parameter.grad.shape == (2, 3)
    assert parameter.grad.dtype == np.float32
    assert not parameter.grad.any()


def test_to_returns_the_layer_and_keeps_values():
    layer = Linear(3, 2, rng=rng())
    kept = layer.weight.value.copy()
    layer.weight.grad[...] = 5
    assert layer.to(np.float64) is layer
    assert np.array_equal(layer.weight.value, kept)
    assert (layer.weight.grad == 5).all()
    assert layer.weight.grad.dtype == np.float64
    assert layer.bias.value.dtype == np.float64


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ((28, 28), "(N, C, H, W)"),
        ((64, 28, 28), "(N, C, H, W)"),
        ((4, 1, 28, 28), "(N, D)"),
        ((0, 5), "(N, D)"),
        ((0, 1, 8, 8), "(N, C, H, W)"),
    ],
)
def test_check_batch_refuses(given, shape):
    with pytest.raises(
        ValueError,
        match=rf"someone was given .*{re.escape(str(given))}; expected "
        rf"{re.escape(shape)} with N at least 1.*Add the missing axis",
    ):
        check_batch(np.zeros(given), shape, "someone")


@pytest.mark.parametrize(
    ("given", "shape"),
    [((1, 5), "(N, D)"), ((2, 1, 8, 8), "(N, C, H, W)")],
)
def test_check_batch_accepts(given, shape):
    check_batch(np.zeros(given), shape, "someone")
