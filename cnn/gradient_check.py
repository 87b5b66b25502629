# Written by book/foundations/gradient_check.md.
"""Gradients measured, to hold the derived ones to account."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

from cnn.data import check_arrays, check_generator, check_numbers
from cnn.layer import Layer, Parameter


def numerical_gradient(
    f: Callable[[np.ndarray], float], x: np.ndarray, h: float | None = None
) -> np.ndarray:
    """df/dx by central differences: (f(x + h) - f(x - h)) / 2h, per entry.

    f: a function of arrays like x. x: of any shape.
    h: the step; by default the cube root of the dtype's machine epsilon.
    Equation: eq-check-central.
    """
    (x,) = check_arrays("numerical_gradient", "x (...)", x)
    check_numbers(h=0 if h is None else h)
    if h is None:
        h = float(np.finfo(x.dtype).eps) ** (1 / 3)
    x, gradient = x.copy(), np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = f(x)
        x[index] = kept - h
        below = f(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * h)
    return gradient


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """max|a - b| / max(|a|, |b|), over all entries; 0 if both are zero.

    a, b: of one shape; ValueError otherwise. inf if one of them has a nan.
    Equation: eq-check-relative.
    """
    a, b = check_arrays("relative_error", "a (...), b (...)", a, b)
    scale = max(np.abs(a).max(), np.abs(b).max())
    # Not "scale > 0": that would call nan, which is not > 0, right.
    error = 0.0 if scale == 0 else float(np.abs(a - b).max() / scale)
    return np.inf if np.isnan(error) else error  # max() may miss a nan


def one_sided_slope(
    f: Callable[[np.ndarray], float],
    x: np.ndarray,
    index: tuple[int, ...],
    h: float,
) -> float:
    """df/dx[index] from what lies on one side: f at x, x + h and x + 2h.

    f: a function of arrays like x. x: of any shape. index: of one entry.
    h: the step; below 0 it looks to the left.
    Equation: eq-check-one-sided.
    """
    at, values = x.copy(), []
    for n in range(3):
        at[index] = x[index] + n * h
        values.append(f(at))
    return (4 * values[1] - 3 * values[0] - values[2]) / (2 * h)


def error_beside_measured(
    gradient: np.ndarray, f: Callable[[np.ndarray], float], x: np.ndarray
) -> float:
    """relative_error of a derived gradient beside the nearest measured one.

    gradient, x: of one shape. f: as numerical_gradient takes it.
    Warns of entries whose measurements differ among themselves.
    """
    measured, eps = numerical_gradient(f, x), float(np.finfo(x.dtype).eps)
    relative_error(gradient, measured)  # are they of one shape?
    close = eps**0.5 * np.abs(measured).max()  # far above rounding
    doubtful = 0
    for place in np.argwhere(np.abs(gradient - measured) > close):
        index, h = tuple(place), eps ** (1 / 3)
        sides = (one_sided_slope(f, x, index, step) for step in (-h, h))
        slopes = np.array([measured[index], *sides])
        off = np.abs(slopes - gradient[index])
        measured[index] = slopes[off.argmin()]
        doubtful += close < off.min() < 10 * np.ptp(slopes)
    if doubtful:
        warnings.warn(
            f"{doubtful} of {x.size} entries are off, but lie among kinks, "
            "where no difference is sure. Add noise to x, or take less of it.",
            stacklevel=3,
        )
    return relative_error(gradient, measured)


def check_gradients(
    layer: Layer, x: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """Relative error of each gradient of a layer, beside the measured one.

    layer: in float64, by layer.to(np.float64). x: of a shape that it takes.
    rng: draws r, for the loss L = sum(r * y), so that dL/dy = r.
    Returns the error for "input" and for each parameter by its name.
    Warns of entries among kinks, where an error may be a false alarm.
    """
    check_generator(rng)
    (x,) = check_arrays("check_gradients", "x (...)", x)
    r = rng.standard_normal(layer.forward(x).shape)
    # A copy: a backward that overwrites its argument must not change L.
    grad_input = layer.backward(r.copy())

    def loss(x: np.ndarray) -> float:
        return float(np.sum(r * layer.forward(x)))

    def loss_at(parameter: Parameter, w: np.ndarray) -> float:
        parameter.value = w
        return loss(x)

    errors = {"input": error_beside_measured(grad_input, loss, x)}
    for name, parameter in layer.named_parameters().items():
        kept, f = parameter.value, partial(loss_at, parameter)
        errors[name] = error_beside_measured(parameter.grad, f, kept)
        parameter.value = kept
    return errors
