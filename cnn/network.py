# Written by book/layers/network.md. To keep edits: tangle.py --back.
"""A network is a list of layers; backward is the same list, reversed."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cnn.data import Dataset, as_numbers
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


def checksum(dataset: Dataset) -> str:
    """A word that tells a dataset's images and labels from any others."""
    images, labels = dataset.images.tobytes(), dataset.labels.tobytes()
    return f"{dataset.images.shape} {zlib.crc32(labels, zlib.crc32(images))}"


def describe_run(
    run: Any, batch_size: int, training: Dataset, validation: Dataset
) -> dict[str, Any]:
    """What tells a run of training from others, by name, for a file.

    run: has a network, an optimizer and a random generator, rng.
    batch_size, training, validation: as train takes them.
    """
    kinds: Any = int | float | str | tuple  # its arrays are what it learned
    held = vars(run.optimizer).items()
    numbers = {n: v for n, v in held if isinstance(v, kinds) and n != "lr"}
    seed = run.rng.bit_generator.seed_seq
    return numbers | {
        "optimizer": type(run.optimizer).__name__,
        "layers": " ".join(type(m).__name__ for m in run.network.modules()),
        "seed": str([seed.entropy, *seed.spawn_key]),
        "batch_size": int(batch_size),
        "training": checksum(training),
        "validation": checksum(validation),
        "mean lr": [],  # of each epoch: its last step, of how many, mean
    }


def check_run(
    path: str | Path, here: dict[str, Any], rate: Callable[[float], float]
) -> None:
    """ValueError, naming each difference, if path has another run than ours.

    here: how ours is described; rate: its learning rate by progress.
    """
    there = json.loads(str(load_arrays(path).get("state", "{}")))
    there = there.get("made_of", {})
    lrs, start = [], 0
    for end, total, _ in there.get("mean lr", []):
        used = [rate(n / total) for n in range(start, end)]
        lrs.append([end, total, fmean(used)])
        start = end
    # Through JSON, since a tuple comes back as a list.
    here = json.loads(json.dumps(here | {"mean lr": lrs}))
    differ = [n for n, value in here.items() if there.get(n) != value]
    if differ:
        says = (f"{n} is {there.get(n)}, here {here[n]}" for n in differ)
        raise ValueError(
            f"{path} holds another run: {'; '.join(says)}. Expected this one. "
            "Make them equal, or give this run a file of its own. To go on "
            "from there in another way, load it by Checkpoint(...).load, and "
            "train with another file."
        )
