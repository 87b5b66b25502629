# Written by book/layers/network.md. To keep edits: tangle.py --back.
"""A network is a list of layers; backward is the same list, reversed."""

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn.layer import Layer, Parameter


class Sequential(Layer):
    """Layers applied one after the other."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers
        # A parameter is named by its layer's place: "0.weight".
        for place, layer in enumerate(layers):
            for parameter in layer.parameters():
                parameter.name = f"{place}.{parameter.name}"

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
        first.backward_parameters(grad_output)

    def parameters(self) -> list[Parameter]:
        return [p for layer in self.layers for p in layer.parameters()]


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an .npz file that is, at any moment, old or new whole.

    It is written aside, flushed to the disk, and renamed.
    """
    path = Path(path)
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read what save_arrays wrote; ValueError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as saved arrays: {error}. Expected a "
            "whole .npz file; this one is cut short or of another kind. "
            "Delete it and start anew, or take an earlier copy."
        ) from error


def set_parameters(
    network: Layer, arrays: Mapping[str, np.ndarray], source: str | Path
) -> None:
    """Put arrays into a network's parameters, by name.

    ValueError if names or shapes differ; then nothing is changed.
    """
    given = {name: array.shape for name, array in arrays.items()}
    expected = {p.name: p.value.shape for p in network.parameters()}
    if given != expected:
        raise ValueError(
            f"{source} was saved from another architecture: it has {given}; "
            f"expected {expected}. Build the network that was saved, then "
            "load it."
        )
    for parameter in network.parameters():
        parameter.value[...] = arrays[parameter.name]


def save_parameters(path: str | Path, network: Layer) -> None:
    """Save a network's parameters to an .npz file."""
    save_arrays(path, {p.name: p.value for p in network.parameters()})


def load_parameters(path: str | Path, network: Layer) -> None:
    """Load what save_parameters wrote into a network of the same layers.

    ValueError if the file is damaged or of another architecture; then the
    network is as it was.
    """
    set_parameters(network, load_arrays(path), path)
