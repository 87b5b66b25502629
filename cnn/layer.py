# Written by book/foundations/layer.md. To keep edits: tangle.py --back.
"""A layer's promise: forward(x) gives y, backward(dL/dy) gives dL/dx."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt


class Parameter:
    """An array that training changes, with the gradient of the loss to it.

    value, grad: arrays of one shape. Each backward overwrites grad.
    """

    def __init__(self, value: np.ndarray, name: str) -> None:
        self.value = value
        self.grad = np.zeros_like(value)
        self.name = name


class Layer:
    """A differentiable function y = f(x), which may have parameters."""

    _saved: tuple[Any, ...] | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """y = f(x); keeps what backward will need."""
        raise NotImplementedError

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """dL/dx from dL/dy; writes dL/dw into each parameter's grad.

        ValueError if forward has not run.
        """
        raise NotImplementedError

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        """Only the parameters' gradients: dL/dx is left out where it can be.

        Nobody needs the gradient to the images that a network was given.
        """
        self.backward(grad_output)

    def parameters(self) -> list[Parameter]:
        """The arrays that training changes, in a fixed order."""
        return []

    def to(self, dtype: npt.DTypeLike) -> Self:
        """Turn every parameter into dtype: float64 to check gradients."""
        for parameter in self.parameters():
            parameter.value = parameter.value.astype(dtype)
            parameter.grad = parameter.grad.astype(dtype)
        return self

    def save_for_backward(self, *values: Any) -> None:
        """Keep what backward needs of this forward."""
        self._saved = values

    def saved(self) -> tuple[Any, ...]:
        """What the last forward kept; ValueError if there was none."""
        if self._saved is None:
            raise ValueError(
                f"{type(self).__name__}.backward was called before forward; "
                "it needs what forward saw. Call forward(x) first."
            )
        return self._saved


def check_batch(x: np.ndarray, shape: str, user: str) -> None:
    """ValueError unless x is a batch, not empty, with the axes of shape.

    shape: the axes by name, such as "(N, C, H, W)".
    """
    if x.ndim != shape.count(",") + 1 or len(x) == 0:
        raise ValueError(
            f"{user} was given an array of shape {x.shape}; expected "
            f"{shape} with N at least 1. Add the missing axis, or put a "
            "Flatten() where images meet a Linear layer."
        )
