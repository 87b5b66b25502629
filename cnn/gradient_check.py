# Written by book/foundations/gradient_check.md.
"""Gradients measured, to hold the derived ones to account."""

from collections.abc import Callable
from functools import partial

import numpy as np

from cnn.data import check_arrays
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
    if h is None:
        h = float(np.finfo(x.dtype).eps) ** (1 / 3)
    x = x.copy()
    gradient = np.empty_like(x)
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

    a, b: of one shape; ValueError otherwise. nan if one of them has a nan.
    Equation: eq-check-relative.
    """
    a, b = check_arrays("relative_error", "a (...), b (...)", a, b)
    scale = max(np.abs(a).max(), np.abs(b).max())
    # Not "scale > 0": that would call nan, which is not > 0, right.
    return 0.0 if scale == 0 else float(np.abs(a - b).max() / scale)


def check_gradients(
    layer: Layer, x: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """Relative error of each gradient of a layer, beside the measured one.

    layer: in float64, by layer.to(np.float64). x: of a shape that it takes.
    rng: draws r, for the loss L = sum(r * y), so that dL/dy = r.
    Returns the error for "input" and for each parameter by its name.
    """
    (x,) = check_arrays("check_gradients", "x (...)", x)
    r = rng.standard_normal(layer.forward(x).shape)
    # A copy: a backward that overwrites its argument must not change L.
    grad_input = layer.backward(r.copy())

    def loss(x: np.ndarray) -> float:
        return float(np.sum(r * layer.forward(x)))

    def loss_at(parameter: Parameter, w: np.ndarray) -> float:
        parameter.value = w
        return loss(x)

    errors = {"input": relative_error(grad_input, numerical_gradient(loss, x))}
    for name, parameter in layer.named_parameters().items():
        kept = parameter.value
        numerical = numerical_gradient(partial(loss_at, parameter), kept)
        parameter.value = kept
        errors[name] = relative_error(parameter.grad, numerical)
    return errors
