"""The check itself: right gradients pass, wrong ones do not."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import Zigzag

from cnn import (
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    check_gradients,
    numerical_gradient,
    relative_error,
)


RIGHT, WRONG = 1e-7, 1e-4


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# The measured gradient.


@given(st.integers(0, 2**32))
def test_numerical_gradient_is_autograds(seed):
    x = rng(seed).standard_normal((2, 3))
    a = rng(seed + 1).standard_normal((2, 3))
    tensor = torch.tensor(x, requires_grad=True)
    weights = torch.tensor(a)
    (torch.sin(tensor * weights).exp().sum() ** 2).backward()
    measured = numerical_gradient(
        lambda x: float(np.exp(np.sin(x * a)).sum() ** 2), x
    )
    assert relative_error(measured, tensor.grad.numpy()) < 1e-8


def test_central_not_one_sided():
    """The error goes with h squared: for a cube it is h squared."""
    x = np.array([1.0])
    for h in (0.1, 0.01):
        measured = numerical_gradient(lambda x: float(x[0] ** 3), x, h)
        assert measured[0] - 3 == pytest.approx(h**2, rel=1e-6)


def test_default_step_is_the_cube_root_of_epsilon():
    for dtype, eps in ((np.float64, 2.0**-52), (np.float32, 2.0**-23)):
        seen = []

        def f(x, seen=seen):
            seen.append(float(x[0]))
            return 0.0

        numerical_gradient(f, np.zeros(1, dtype))
        assert seen == pytest.approx([eps ** (1 / 3), -(eps ** (1 / 3))])


@pytest.mark.parametrize(
    ("dtype", "h"), [(np.float64, 6e-6), (np.float32, 5e-3)]
)
def test_default_step_is_near_the_best(dtype, h):
    """Much longer and much shorter steps are both worse."""

    def worst(h: float | None) -> float:
        x = np.linspace(0.5, 1.5, 40).astype(dtype)
        errors = []
        for value in x:
            measured = numerical_gradient(
                lambda x: x[0] * x[0] * x[0], value[np.newaxis], h
            )
            errors.append(abs(float(measured[0]) - 3 * float(value) ** 2))
        return max(errors)

    assert worst(None) < 0.2 * worst(30 * h)
    assert worst(None) < 0.2 * worst(h / 100)


def test_x_is_left_as_it_was():
    x = rng().standard_normal((3, 2))
    x.flags.writeable = False
    kept = x.copy()
    numerical_gradient(lambda x: float(x.sum()), x)
    assert np.array_equal(x, kept)


def test_each_entry_moves_alone():
    """All others must be at rest again: no rounding may stay behind."""
    x = rng().standard_normal(5) * 10.0 ** np.arange(-5, 0)
    places = []
    numerical_gradient(lambda at: places.append(at.copy()) or 0.0, x)
    for n, place in enumerate(places):
        others = np.arange(5) != n // 2
        assert np.array_equal(place[others], x[others])


def test_a_view_that_is_not_contiguous():
    x = rng().standard_normal((3, 4)).T
    measured = numerical_gradient(lambda x: float((x**2).sum()), x)
    assert np.allclose(measured, 2 * x, atol=1e-8)


def test_whole_numbers_become_floats_which_can_take_a_step():
    measured = numerical_gradient(lambda x: float((x**2).sum()), [1, 2, 3])
    assert np.allclose(measured, [2, 4, 6], atol=1e-8)


# The relative error.


def test_relative_error_by_hand():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 5.0])
    assert relative_error(a, b) == pytest.approx(1 / 5)
    assert relative_error(b, a) == pytest.approx(1 / 5)
    assert relative_error(-a, -b) == pytest.approx(1 / 5)
    assert relative_error(a, -a) == pytest.approx(2)
    assert relative_error(a, a) == 0


def test_relative_error_does_not_depend_on_the_unit():
    a, b = rng().standard_normal((2, 10))
    assert relative_error(1e-9 * a, 1e-9 * b) == pytest.approx(
        relative_error(a, b)
    )


def test_relative_error_of_nothing():
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.zeros(3), np.array([0, 1e-30, 0])) == 1


@pytest.mark.parametrize("place", ["a", "b", "both"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_right(place, bad):
    a, b = np.ones(3), np.ones(3)
    if place != "b":
        a[1] = bad
    if place != "a":
        b[1] = bad
    with np.errstate(invalid="ignore"):
        assert relative_error(a, b) == np.inf


def test_shapes_must_agree():
    """Broadcasting would compare (3,) with (3, 1) and say something."""
    with pytest.raises(
        ValueError, match=r"\(3, 1\); expected .* is \(3,\) as in a"
    ):
        relative_error(np.ones(3), np.ones((3, 1)))


# The check.


SHAPES = {"images": (3, 2, 6, 6), "rows": (4, 5)}


class NoMask(ReLU):
    def backward(self, grad_output):
        return grad_output


class OneImage(MaxPool2d):
    def backward(self, grad_output):
        grad_input = super().backward(grad_output).copy()
        grad_input[1:] = 0
        return grad_input


class NotTransposed(Linear):
    def backward(self, grad_output):
        super().backward(grad_output)
        return grad_output @ self.weight.value.T


class BiasMean(Linear):
    def backward(self, grad_output):
        grad_input = super().backward(grad_output)
        self.bias.grad = grad_output.mean(axis=0)
        return grad_input


class OnePercent(Conv2d):
    def backward(self, grad_output):
        grad_input = super().backward(grad_output)
        self.weight.grad = 1.01 * self.weight.grad
        return grad_input


class UpsideDown(Linear):
    """Invisible if dL/dy is all ones: hence the random direction."""

    def backward(self, grad_output):
        return super().backward(grad_output)[::-1]


class NotANumber(Linear):
    def backward(self, grad_output):
        return np.nan * super().backward(grad_output)


class TwiceInPlace(Flatten):
    """Overwrites its argument: the loss must not follow it."""

    def backward(self, grad_output):
        grad_output *= 2
        return super().backward(grad_output)


@pytest.mark.parametrize(
    ("make", "kind", "culprit"),
    [
        (NoMask, "images", "input"),
        (lambda: OneImage(2), "images", "input"),
        (lambda: NotTransposed(5, 5, rng=rng()), "rows", "input"),
        (lambda: UpsideDown(5, 5, rng=rng()), "rows", "input"),
        (lambda: NotANumber(5, 5, rng=rng()), "rows", "input"),
        (TwiceInPlace, "images", "input"),
        (lambda: BiasMean(5, 5, rng=rng()), "rows", "bias"),
        (lambda: OnePercent(2, 3, 3, rng=rng()), "images", "weight"),
    ],
)
def test_wrong_layers_are_caught_and_named(make, kind, culprit):
    layer = make().to(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is no doubt
        errors = check_gradients(
            layer, rng(1).standard_normal(SHAPES[kind]), rng()
        )
    assert not errors.pop(culprit) < WRONG
    assert all(error < RIGHT for error in errors.values())


def deep(seed: int, whole: bool = False) -> tuple[Sequential, np.ndarray]:
    """A network of ReLU and pooling, and an input; whole numbers, if so asked.

    Its biases start at 0, and some of its layers die: then the next one
    stands exactly at its kink.
    """
    draw = rng(seed)
    layers: list[Layer] = []
    if seed % 2:
        x = draw.standard_normal((draw.integers(2, 5), 3))
        for _ in range(draw.integers(2, 6)):
            layers += [Linear(3, 3, rng=draw), ReLU()]
    else:
        x = draw.standard_normal((2, 1, *draw.integers(3, 5, 2)))
        layers += [Conv2d(1, 2, 2, padding=1, rng=draw), ReLU()]
        layers += [MaxPool2d(*((2,), (2, 1), (3, 2, 1))[draw.integers(3)])]
        layers += [Conv2d(2, 2, 2, padding=1, rng=draw), ReLU()]
    network = Sequential(*layers).to(np.float64)
    return network, np.round(x) if whole else x


def test_right_networks_are_never_called_wrong():
    found = {}
    for seed in range(200):
        network, x = deep(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            errors = check_gradients(network, x, rng(seed + 1))
        found[seed] = max(errors.values())
    assert max(found.values()) < RIGHT


def test_of_several_kinks_at_one_place_it_says_so():
    """Zeros and ties, as images have: right, or a warning; not all warn."""
    warned = 0
    for seed in range(40):
        network, x = deep(seed, whole=True)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            errors = check_gradients(network, x, rng(seed + 1))
        assert told or max(errors.values()) < RIGHT
        warned += bool(told)
    assert 0 < warned < 20


FAULTS = {
    "factor": lambda grad: 1.01 * grad,
    "sign": lambda grad: -grad,
    "dropped": lambda grad: np.where(
        np.abs(grad) == np.abs(grad).max(), 0, grad
    ),
    "transposed": lambda grad: grad.swapaxes(-1, -2).reshape(grad.shape),
}


def spoil(layer: Layer, name: str, fault: Callable) -> None:
    """Let the layer's backward do a fault to the gradient called name."""
    backward = layer.backward

    def faulty(grad_output):
        grad_input = backward(grad_output)
        if name == "input":
            return fault(grad_input)
        parameter = layer.named_parameters()[name]
        parameter.grad = fault(parameter.grad)
        return grad_input

    layer.backward = faulty


@pytest.mark.parametrize("kind", FAULTS)
def test_each_planted_fault_is_caught(kind):
    """50 of each kind, in the first layer that has a gradient to spoil."""
    missed, seed, planted = [], 0, 0
    while planted < 50:
        seed += 1
        network, x = deep(seed)
        names = ["input"] if kind == "dropped" else ["input", "weight"]
        name, fault = names[seed // 2 % len(names)], FAULTS[kind]
        layer = network.layers[0]
        grad_input = layer_gradient(network, x, rng(seed), name)
        if relative_error(fault(grad_input), grad_input) < 1e-3:
            continue  # all of it is 0, or symmetric: there is no fault
        planted += 1
        spoil(layer, name, fault)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            errors = check_gradients(network, x, rng(seed))
        key = "input" if name == "input" else f"0.{name}"
        if not errors[key] > WRONG:
            missed.append((seed, errors))
    assert not missed


def layer_gradient(network, x, draw, name):
    """What check_gradients will look at: dL/dx, or the first weight's."""
    grad_input = network.backward(
        draw.standard_normal(network.forward(x).shape)
    )
    if name == "input":
        return grad_input
    return network.named_parameters()[f"0.{name}"].grad


def test_doubt_is_told():
    """Kinks on both sides: an alarm that may be false says so."""

    x = np.array([[0.0, 1.0, -1.0]])
    with pytest.warns(UserWarning, match="^1 of 3 entries .* kinks"):
        errors = check_gradients(Zigzag(), x, rng())
    assert errors["input"] > WRONG


def test_the_parameters_come_back():
    layer = Linear(5, 5, rng=rng()).to(np.float64)
    weight = layer.weight.value
    kept = weight.copy()
    check_gradients(layer, rng(1).standard_normal((4, 5)), rng())
    assert layer.weight.value is weight
    assert np.array_equal(weight, kept)


def test_a_kink_measures_one_half():
    """At 0, ReLU's central difference is 1/2 whatever the gradient."""
    x = np.array([[0.0, -1.0, 1.0]])
    measured = numerical_gradient(lambda x: float(ReLU().forward(x).sum()), x)
    assert measured == pytest.approx(np.array([[0.5, 0, 1]]))


def test_wrong_gradients_whose_loss_falls():
    """Why the check exists: the loss says nothing about the gradient."""
    from cnn import SGD, train_step

    draw = rng(3)
    labels = draw.integers(0, 3, 60)
    x = np.zeros((60, 1, 6, 6), np.float32)
    x += 0.3 * draw.standard_normal(x.shape).astype(np.float32)
    for n, label in enumerate(labels):
        x[n, 0, 2 * label : 2 * label + 2] += 1
    network = Sequential(
        Conv2d(1, 4, 3, rng=draw),
        NoMask(),
        OneImage(2),
        Flatten(),
        Linear(16, 3, rng=draw),
    )
    optimizer = SGD(network.parameters(), lr=0.1)
    losses = [train_step(network, optimizer, x, labels)[0] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    network.to(np.float64)
    errors = check_gradients(network, x[:4].astype(np.float64), rng())
    assert not errors["0.weight"] < WRONG
    assert errors["4.weight"] < RIGHT
