# Written by book/back/touch.md. To keep edits: tangle.py --back.
"""A figure that moves, in the place of a still one, with a run's arrays."""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn.data import Dataset
from cnn.network import Sequential


# What JavaScript has typed arrays for.
DTYPES = ("float32", "float64", "int8", "int16", "int32", "uint8")
LARGE = 100_000  # bytes; what is larger is deflated


def pack(array: np.ndarray) -> dict[str, Any]:
    """An array as text: its shape, dtype and bytes, for touch.js to unpack.

    array: of any shape; integers of 64 bits become float64.
    ValueError if JavaScript has no array for its dtype.
    """
    if array.dtype == np.int64:
        array = array.astype(np.float64)
    if array.dtype.name not in DTYPES:
        raise ValueError(
            f"pack was given an array of dtype {array.dtype}; expected one "
            f"of {', '.join(DTYPES)}. Convert it, as in array.astype('f4')."
        )
    little = array.astype(array.dtype.newbyteorder("<"))  # as browsers have it
    held = little.tobytes()
    if array.nbytes > LARGE:
        held = zlib.compress(held, 9)
    return {
        "shape": array.shape,
        "dtype": array.dtype.name,
        "deflated": array.nbytes > LARGE,
        "base64": base64.b64encode(held).decode(),
    }


@dataclass(frozen=True, repr=False)
class Touch:
    """What a page holds for a figure that moves.

    figure: its name; the script is book/assets/touch/<name>.js.
    hint: a sentence below the caption: what to try, what to look for.
    values: its arrays, and whatever else JSON can hold.
    """

    figure: str
    hint: str
    values: dict[str, Any]

    def _repr_html_(self) -> str:
        held = {"hint": self.hint, "values": self.values}
        text = json.dumps(held, default=pack, ensure_ascii=False)
        text = text.replace("<", "\\u003c")  # no "</script>" within
        return (
            '<script type="application/json" '
            f'data-touch="{self.figure}">{text}</script>'
        )


def touch(figure: str, hint: str, **values: Any) -> Touch:
    """Let a figure that moves take the place of the cell's still one.

    figure, hint: its name, and what to try, as in Touch.
    values: the run's arrays, and whatever else JSON can hold.
    It must be the last line of the cell that draws the still figure.
    """
    return Touch(figure, hint, values)


def digit_pad(hint: str, network: Sequential, data: Dataset) -> Touch:
    """Let the pad to draw a digit on take the place of the cell's figure.

    hint: what to try, as in Touch.
    network: trained: Conv2d, ReLU, MaxPool2d, Flatten, Linear.
    data: the images beside the pad; the first lies on it.
    """
    layers: tuple[Any, ...] = network.layers
    conv, _, pool, *_ = layers
    pixels = np.rint(data.images[:, 0] * data.std + data.mean)
    small = pixels.shape[1] == 8
    return touch(
        "digit",
        hint,
        parameters=[p.value for p in network.parameters()],
        padding=conv.padding[0],
        pool=[pool.kernel_size[0], pool.stride[0]],
        images=pixels.astype(np.uint8),
        labels=data.labels.tolist(),
        mean=data.mean,
        std=data.std,
        names=data.class_names,
        white=16 if small else 255,
        box=8 if small else 20,  # how long the data set's digits are
        pen=1.1 if small else 2.2,  # how thick
        by_mass=not small,  # what is centred: mass, or box
    )
