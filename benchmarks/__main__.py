"""Time one training step of the seed network beside PyTorch's.

    python -m benchmarks

Both take turns in one run, on the same images, in float32, with the same
number of threads; the ratio of the medians is what carries over to another
machine. PyTorch runs eagerly, as it does by default.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import cnn


# Filters, kernel size, pooling window, its stride. The first is the network
# of the book's first page, the last that of its full run on MNIST.
SHAPES = ((8, 3, 2, 2), (20, 5, 2, 2), (32, 5, 2, 2), (32, 7, 4, 3))
BATCH_SIZES = (32, 64, 128, 256)
ROUNDS = 100
LR = 0.01


Shape = tuple[int, int, int, int]


def features(shape: Shape) -> int:
    """How many numbers the pooling leaves of an image of 28 x 28."""
    filters, kernel, window, stride = shape
    return filters * ((28 - kernel + 1 - window) // stride + 1) ** 2


def numpy_step(
    shape: Shape, x: np.ndarray, labels: np.ndarray
) -> Callable[[], None]:
    """A training step of the seed network in NumPy."""
    filters, kernel, window, stride = shape
    rng = np.random.default_rng(0)
    network = cnn.Sequential(
        cnn.Conv2d(1, filters, kernel, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(window, stride),
        cnn.Flatten(),
        cnn.Linear(features(shape), 10, rng=rng),
    )
    optimizer = cnn.SGD(network.parameters(), LR)

    def step() -> None:
        cnn.train_step(network, optimizer, x, labels)

    return step


def torch_step(
    shape: Shape, x: np.ndarray, labels: np.ndarray
) -> Callable[[], None]:
    """The same step in PyTorch."""
    filters, kernel, window, stride = shape
    network = nn.Sequential(
        nn.Conv2d(1, filters, kernel),
        nn.ReLU(),
        nn.MaxPool2d(window, stride),
        nn.Flatten(),
        nn.Linear(features(shape), 10),
    )
    optimizer = torch.optim.SGD(network.parameters(), LR)
    images, targets = torch.from_numpy(x), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()

    return step


def milliseconds(step: Callable[[], None]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - start)


def compare(shape: Shape, batch: int) -> tuple[float, float]:
    """Median milliseconds of a step: ours, PyTorch's; they take turns."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, batch)
    steps = (
        numpy_step(shape, x, labels),
        torch_step(shape, x, labels),
    )
    for step in steps:  # the first calls pay for setting up
        for _ in range(5):
            step()
    times = [[milliseconds(step) for step in steps] for _ in range(ROUNDS)]
    ours, theirs = map(statistics.median, zip(*times, strict=True))
    return ours, theirs


def main() -> None:
    """Print the table."""
    torch.set_num_threads(os.cpu_count() or 1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"PyTorch {torch.__version__} with {torch.get_num_threads()} threads"
    )
    print("one training step, median of", ROUNDS, "in turns\n")
    print(
        "network                     batch   cnn (ms)   PyTorch (ms)   ratio"
    )
    for shape in SHAPES:
        filters, kernel, window, stride = shape
        name = (
            f"{filters:2} @ {kernel}x{kernel}, pool {window} stride {stride}"
        )
        for batch in BATCH_SIZES:
            ours, theirs = compare(shape, batch)
            print(
                f"{name:26} {batch:6} {ours:10.2f} {theirs:14.2f} "
                f"{ours / theirs:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
