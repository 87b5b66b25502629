"""What all tests share: how hard they try, and the layers under contract.

HYPOTHESIS_PROFILE chooses how many cases each drawn test tries: `quick`
while one works, `ci` where nobody waits (and wherever CI is set), `thorough`
before a release.
"""

import errno
import io
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from toys import one_of_each

from cnn import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
)


# The arrays here are so small that threads would only wait for each other.
torch.set_num_threads(1)

# No deadline: a case that is slow on a busy machine is not wrong. In ci the
# same cases are drawn each time, so that only a change can break it.
settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("glance", max_examples=5, deadline=None)
settings.register_profile(
    "ci",
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
)
settings.register_profile(
    "reader",  # of the blank page: one fault, in few words
    max_examples=50,
    deadline=None,
    database=None,
    phases=[*{*Phase} - {Phase.explain}],
    report_multiple_bugs=False,
)
settings.register_profile(
    "mutants",
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # any failure will do
    suppress_health_check=[*HealthCheck],
)
settings.register_profile(
    "thorough",
    max_examples=3000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE")
    or ("ci" if os.environ.get("CI") else "quick")
)


def in_order(*parts: object) -> str:
    """A pattern for pytest.raises: these texts, one after the other.

    What was given, what was expected, the way out.
    """
    return "(?s)" + ".*".join(re.escape(str(part)) for part in parts)


class Broken(io.StringIO):
    """A terminal; asked for what fails, it raises the error."""

    encoding = "utf-8"

    def __init__(self, fails: str, error: Exception) -> None:
        super().__init__()

        def fail(*_: Any) -> Any:
            raise error

        self.isatty = lambda: True  # type: ignore[method-assign]
        setattr(self, fails, fail)


def closed() -> io.StringIO:
    """A stream that was closed."""
    stream = io.StringIO()
    stream.close()
    return stream


# What sys.stderr may be: a bar is decoration, and ends nothing.
BROKEN_STREAMS: dict[str, Callable[[], Any]] = {
    "none, as under pythonw": lambda: None,
    "closed": closed,
    "no stream at all": object,
    "of ASCII": lambda: Broken(
        "write", UnicodeEncodeError("ascii", "x", 0, 1, "no such letter")
    ),
    "nobody knows if a terminal": lambda: Broken("isatty", OSError(9, "?")),
    "cannot be flushed": lambda: Broken("flush", OSError(errno.EBADF, "?")),
    **{
        errno.errorcode[number]: lambda number=number: Broken(
            "write", OSError(number, os.strerror(number))
        )
        for number in (
            *(errno.EIO, errno.EBADF, errno.EPIPE, errno.ENOSPC),
            *(errno.EACCES, errno.ENXIO, errno.ENODEV, errno.EAGAIN),
        )
    },
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def trained_norm() -> BatchNorm2d:
    """Evaluated by statistics that some training has left, say."""
    layer = BatchNorm2d(2).eval()
    layer.running_mean.value[...] = [0.5, -1]
    layer.running_var.value[...] = [2, 0.25]
    return layer


def halving_block() -> Residual:
    """Whose two ways halve the maps, whatever their size."""
    body = Conv2d(2, 3, 3, 2, 1, rng=rng()), ReLU()
    return Residual(*body, shortcut=Conv2d(2, 3, 1, 2, rng=rng()))


# Each layer that `cnn` exports, how it is made, and the shape of an x for it.
# All that the contract asks is tested of each of them, in test_layer.py.
CONTRACT_LAYERS = {
    "Conv2d": (lambda: Conv2d(2, 3, 3, padding=1, rng=rng()), (4, 2, 6, 6)),
    "ReLU": (ReLU, (4, 2, 6, 6)),
    "MaxPool2d": (lambda: MaxPool2d(2), (4, 2, 6, 6)),
    "Flatten": (Flatten, (4, 2, 6, 6)),
    "Dropout": (lambda: Dropout(rng=rng()).eval(), (4, 2, 6, 6)),
    "Linear": (lambda: Linear(5, 3, rng=rng()), (4, 5)),
    "Sequential": (one_of_each, (4, 2, 6, 6)),
    "BatchNorm2d": (trained_norm, (4, 2, 6, 6)),
    "Residual": (halving_block, (4, 2, 6, 6)),
    "AvgPool2d": (lambda: AvgPool2d(3, 2, 1), (4, 2, 6, 6)),
    "GlobalAvgPool2d": (GlobalAvgPool2d, (4, 2, 6, 6)),
}


@pytest.fixture(params=CONTRACT_LAYERS)
def layer_and_x(request: pytest.FixtureRequest) -> tuple[Layer, np.ndarray]:
    """Each layer of the contract in turn, and an input for it (float32)."""
    make, shape = CONTRACT_LAYERS[request.param]
    return make(), rng().standard_normal(shape).astype(np.float32)
