# Written by book/layers/network.md. To keep edits: tangle.py --back.
"""A network is a list of layers; backward is the same list, reversed."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cnn.data import as_numbers
from cnn.layer import Arrays, Layer


class Sequential(Layer):
    """Layers applied one after the other: y = f_n(... f_2(f_1(x))).

    layers: at least one, each once, else ValueError; called "0", "1", ...
    Equation: eq-network-forward.
    """

    def __init__(self, *layers: Layer) -> None:
        # A layer remembers one forward: used twice, it forgets the first.
        if not layers or len(set(map(id, layers))) < len(layers):
            raise ValueError(
                f"Sequential was given {len(layers)} layers, "
                f"{len(set(map(id, layers)))} of them different; expected "
                "at least one, and each once. Make a new layer, such as "
                "another ReLU(), for each place."
            )
        self.layers = layers

    def children(self) -> dict[str, Layer]:
        return {str(n): layer for n, layer in enumerate(self.layers)}

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        for layer in reversed(self.layers):
            grad_output = layer.backward(grad_output)
        return grad_output

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        first, *others = self.layers
        for layer in reversed(others):
            grad_output = layer.backward(grad_output)
        # Nobody asks for the gradient to the images themselves.
        first.backward_parameters(grad_output)


def save_arrays(path: str | Path, arrays: Arrays) -> None:
    """Write arrays to an .npz file that is, at any moment, old or new whole.

    path: is written aside, flushed to the disk and then renamed.
    arrays: by name, of any shapes; network.state_dict() of a network.
    OSError if the folder is not there or the disk is full; ValueError for
        what has no numbers, nor text.
    """
    arrays = {
        name: as_numbers("save_arrays", name, array, "biufcUS")
        for name, array in arrays.items()
    }
    path = Path(path)
    # A folder of its own: two that save to one path must not mix their bytes.
    with TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as aside:
        whole = Path(aside, "whole")
        with open(whole, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, path)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read what save_arrays wrote.

    path: a file; for a network, load_state_dict(load_arrays(path), path).
    ValueError if it is damaged or of another kind.
    """
    with open(path, "rb") as file:
        try:
            return dict(np.load(file, allow_pickle=False))
        except Exception as error:  # BadZipFile, EOFError, OSError, ...
            raise ValueError(
                f"{path} cannot be read as saved arrays: {error}. Expected "
                "a whole .npz file; this one is cut short or of another "
                "kind. Delete it and start anew, or take an earlier copy."
            ) from error
