# Written by book/layers/network.md. To keep edits: tangle.py --back.
"""A network is a list of layers; backward is the same list, reversed."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn.layer import Layer, Parameter


class Sequential(Layer):
    """Layers applied one after the other: y = f_n(... f_2(f_1(x))).

    Being a layer itself, it may stand in another Sequential. Parameters
    are named by place: "0.weight". ValueError if there is no layer, or if
    one is given twice.
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
        # Nobody asks for the gradient to the images themselves.
        first.backward_parameters(grad_output)

    def parameters(self) -> list[Parameter]:
        return [p for layer in self.layers for p in layer.parameters()]


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an .npz file that is, at any moment, old or new whole.

    It is written aside, to path + ".partial", flushed to the disk, and
    renamed. OSError if the folder is not there or the disk is full.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".partial")
    try:
        with open(aside, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read what save_arrays wrote; ValueError if it is damaged."""
    with open(path, "rb") as file:
        try:
            return dict(np.load(file, allow_pickle=False))
        except Exception as error:  # BadZipFile, EOFError, OSError, ...
            raise ValueError(
                f"{path} cannot be read as saved arrays: {error}. Expected "
                "a whole .npz file; this one is cut short or of another "
                "kind. Delete it and start anew, or take an earlier copy."
            ) from error


def load_state_dict(
    network: Layer, arrays: Mapping[str, np.ndarray], source: str | Path
) -> None:
    """Put arrays into a network's parameters, by name; dtypes stay.

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
    parameters = network.parameters()
    values = [arrays[p.name].astype(p.value.dtype) for p in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value[...] = value


def save_parameters(path: str | Path, network: Layer) -> None:
    """Save a network's parameters to an .npz file, whole or not at all."""
    save_arrays(path, {p.name: p.value for p in network.parameters()})


def load_parameters(path: str | Path, network: Layer) -> None:
    """Load what save_parameters wrote into a network of the same layers.

    ValueError if the file is damaged or of another architecture; then the
    network is as it was.
    """
    load_state_dict(network, load_arrays(path), path)
