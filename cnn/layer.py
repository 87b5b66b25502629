# Written by book/foundations/layer.md. To keep edits: tangle.py --back.
"""A layer's promise: forward(x) gives y, backward(dL/dy) gives dL/dx."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from cnn.data import as_numbers, check_arrays


Arrays = Mapping[str, np.ndarray]


class Function:
    """A differentiable function y = f(x), and the way back through it."""

    _saved: tuple[tuple[int, ...], tuple[Any, ...]] | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """y = f(x), x of a shape that f takes; keeps what backward needs."""
        raise NotImplementedError

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """dL/dx from grad_output, dL/dy, like y; ValueError before forward.

        Equation: eq-layer-chain.
        """
        raise NotImplementedError

    def save_for_backward(self, y: np.ndarray, *values: Any) -> None:
        """Keep y's shape, and values: what backward needs of this forward.

        y: what forward returns, of any shape; only that shape is kept.
        """
        self._saved = y.shape, values

    def saved(self, grad_output: np.ndarray) -> tuple[Any, ...]:
        """grad_output, dL/dy, and then the values that forward has kept.

        ValueError if there was no forward, or grad_output is not like its y.
        """
        user = f"{type(self).__name__}.backward"
        if self._saved is None:
            raise ValueError(
                f"{user} was called before forward; expected to know what "
                "forward saw. Call forward(x) first."
            )
        shape, values = self._saved
        grads = check_arrays(user, f"grad_output {shape}", grad_output)
        return *grads, *values


class Parameter:
    """An array that training changes, with the gradient of the loss to it.

    value: of any shape; floats are kept as they are, not copied.
    Its grad has the same shape and starts at zero; backward overwrites it.
    """

    def __init__(self, value: np.ndarray) -> None:
        (value,) = check_arrays("Parameter", "value (...)", value)
        self.value = value
        self.grad = np.zeros_like(value)


class Buffer:
    """An array, value of any shape, that is saved and not trained."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = as_numbers("Buffer", "value", value)


def copy_arrays(arrays: Arrays, into: Arrays, source: object) -> None:
    """Copy arrays into others of the same names and shapes: all or none.

    source: where arrays are from, for the error. Dtypes of into stay.
    ValueError if names or shapes differ; then nothing is changed.
    """
    arrays = {n: as_numbers(f"{source}", n, a) for n, a in arrays.items()}
    given = {(name, array.shape) for name, array in arrays.items()}
    expected = {(name, array.shape) for name, array in into.items()}
    if given != expected:
        more, less = sorted(given - expected), sorted(expected - given)
        raise ValueError(
            f"{source} was saved from another architecture: it has {more}; "
            f"expected {less}. Build the network that was saved, then load it."
        )
    # All are converted before the first is changed.
    values = {n: arrays[n].astype(array.dtype) for n, array in into.items()}
    for name, array in into.items():
        array[...] = values[name]


class Layer(Function):
    """A function that says what it holds: arrays, layers, its mode."""

    training = True  # False while it is evaluated

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        """Only the parameters' grad: dL/dx is left out where it can be.

        Here it cannot, and backward is called. grad_output: dL/dy, like y.
        Nobody needs dL/dx of a network's images.
        Equation: eq-layer-weight.
        """
        self.backward(grad_output)

    def attributes(self) -> dict[str, Any]:
        """What this layer was given, by name; items of lists have a place."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, list | tuple):
                found |= {f"{name}.{n}": item for n, item in enumerate(value)}
            found[name] = value
        return found

    def children(self) -> dict[str, "Layer"]:
        """The layers that this one is made of, by name."""
        attributes = self.attributes().items()
        return {n: v for n, v in attributes if isinstance(v, Layer)}

    def modules(self) -> Iterator["Layer"]:
        """This layer and all within, each before those within it."""
        yield self
        for child in self.children().values():
            yield from child.modules()

    def named_arrays(self) -> dict[str, Parameter | Buffer]:
        """All parameters and buffers by their places, such as "0.weight"."""
        own = self.attributes().items()
        found = {n: v for n, v in own if isinstance(v, Parameter | Buffer)}
        for place, child in self.children().items():
            for name, array in child.named_arrays().items():
                found[f"{place}.{name}"] = array
        return found

    def named_parameters(self) -> dict[str, Parameter]:
        """The arrays that training changes, by their places."""
        arrays = self.named_arrays().items()
        return {n: a for n, a in arrays if isinstance(a, Parameter)}

    def parameters(self) -> list[Parameter]:
        """The arrays that training changes, in a fixed order."""
        return list(self.named_parameters().values())

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every array by its place: what a file must hold."""
        return {n: a.value.copy() for n, a in self.named_arrays().items()}

    def load_state_dict(self, arrays: Arrays, source: object = "it") -> None:
        """Copy arrays, of the shapes that ours have, read from source."""
        mine = {n: array.value for n, array in self.named_arrays().items()}
        copy_arrays(arrays, mine, source)

    def train(self, mode: bool = True) -> Self:
        """Turn this layer and all within to training; mode False: from it."""
        for layer in self.modules():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Turn this layer and all within to evaluation."""
        return self.train(False)

    def to(self, dtype: type) -> Self:
        """Turn all floats into dtype: float64 to check gradients."""
        for array in self.named_arrays().values():
            if np.issubdtype(array.value.dtype, np.floating):
                array.value = array.value.astype(dtype)
            if isinstance(array, Parameter):
                array.grad = array.grad.astype(dtype)
        return self

    def __repr__(self) -> str:
        """The shapes of the layer's own arrays; each layer within, a line."""
        held = self.attributes().items()
        arrays = [(n, v) for n, v in held if isinstance(v, Parameter | Buffer)]
        own = ", ".join(f"{n} {array.value.shape}" for n, array in arrays)
        within = "".join(f"\n({n}): {c}" for n, c in self.children().items())
        if within:
            within = within.replace("\n", "\n  ") + "\n"
        return f"{type(self).__name__}({own}{within})"
