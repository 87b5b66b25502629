"""How much of each further core ParallelStep makes use of.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --workers 1 2 4 8 16 --batch 1024

One line for each network and number of workers w: milliseconds for a step,
and the efficiency T1 / (w Tw), 100 % if w workers are w times as fast as one.
Then where the caller's time goes: handing out the batch, its own part (and
what that takes while the others rest), waiting and adding, the update. The
numbers of workers take turns, so that a disturbance hits all alike. About a
minute and a half.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from joblib import cpu_count

import cnn
from cnn.beyond import parallel


def one_convolution(filters: int, kernel_size: int) -> cnn.Sequential:
    """The seed network: (N, 1, 28, 28) -> (N, 10)."""
    rng = np.random.default_rng(0)
    side = (28 - kernel_size + 1) // 2
    return cnn.Sequential(
        cnn.Conv2d(1, filters, kernel_size, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Flatten(),
        cnn.Linear(filters * side**2, 10, rng=rng),
    )


def two_convolutions() -> cnn.Sequential:
    """16 and 32 filters of 5 x 5, 128 units: (N, 1, 28, 28) -> (N, 10)."""
    rng = np.random.default_rng(0)
    return cnn.Sequential(
        cnn.Conv2d(1, 16, 5, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Conv2d(16, 32, 5, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Flatten(),
        cnn.Linear(512, 128, rng=rng),
        cnn.ReLU(),
        cnn.Linear(128, 10, rng=rng),
    )


NETWORKS: dict[str, Callable[[], cnn.Sequential]] = {
    "8@3x3": lambda: one_convolution(8, 3),
    "32@5x5": lambda: one_convolution(32, 5),
    "16, 32@5x5 + 128": two_convolutions,
}


class TimedStep(parallel.ParallelStep):
    """A step that notes when each of its parts was done."""

    marks: list[float]

    def submit(self, images: np.ndarray, labels: np.ndarray) -> slice:
        mine = super().submit(images, labels)
        self.marks = [time.perf_counter()]
        return mine


def seconds_of_parts(
    step: TimedStep,
    network: cnn.Sequential,
    sgd: cnn.SGD,
    images: np.ndarray,
    labels: np.ndarray,
) -> list[float]:
    """Of one step: handing out, own part, waiting and adding, update."""
    receive, compute = parallel.receive, step.worker.compute

    def noted_receive(pipe: Any) -> bytes:
        if len(step.marks) == 1:
            step.marks.append(time.perf_counter())
        return receive(pipe)

    def noted_compute(*arguments: Any) -> Any:
        found = compute(*arguments)
        step.marks.append(time.perf_counter())
        return found

    parallel.receive = noted_receive
    step.worker.compute = noted_compute  # type: ignore[assignment]
    try:
        start = time.perf_counter()
        step(network, sgd, images, labels)
        end = time.perf_counter()
    finally:
        parallel.receive = receive
        del step.worker.compute
    if len(step.marks) == 2:  # nobody to wait for
        step.marks.append(step.marks[1])
    return [float(s) for s in np.diff([start, *step.marks, end])]


def seconds_alone(
    step: TimedStep, images: np.ndarray, labels: np.ndarray
) -> float:
    """Of the caller's part, while nobody else works."""
    mine = parallel.parts(len(labels), step.workers)[0]
    pipes, step.worker.pipes = step.worker.pipes, {}
    with step.blas.limit(limits=1):
        start = time.perf_counter()
        step.worker.compute(
            images[mine], labels[mine], len(labels), step.shared["gradients"]
        )
        seconds = time.perf_counter() - start
    step.worker.pipes = pipes
    return seconds


def measure(name: str, counts: list[int], batch: int, seconds: float) -> None:
    """Time a network with each number of workers; print a line for each."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, batch)
    network = NETWORKS[name]()
    sgd = cnn.SGD(network.parameters(), 0.001)
    steps = {w: TimedStep(network, workers=w) for w in counts}
    whole: dict[int, list[float]] = {w: [] for w in counts}
    pieces: dict[int, list[list[float]]] = {w: [] for w in counts}
    alone: dict[int, list[float]] = {w: [] for w in counts}
    for w in counts:
        steps[w](network, sgd, images, labels)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for w, step in steps.items():
            time.sleep(0.005)  # the others' workers fall asleep
            alone[w].append(seconds_alone(step, images, labels))
            for _ in range(2):
                step(network, sgd, images, labels)
            for _ in range(2 * w if w < 8 else 20):
                start = time.perf_counter()
                step(network, sgd, images, labels)
                whole[w].append(time.perf_counter() - start)
            pieces[w].append(
                seconds_of_parts(step, network, sgd, images, labels)
            )
    for step in steps.values():
        step.close()
    one = float(np.median(whole[counts[0]])) * counts[0]
    for w in counts:
        took = float(np.median(whole[w]))
        parts = 1e3 * np.median(pieces[w], axis=0)
        lone = 1e3 * np.median(alone[w])
        print(
            f"{name:17}{w:4}{1e3 * took:9.2f}{one / (w * took):8.0%}"
            f"   {parts[0]:6.2f}{parts[1]:8.2f} ({lone:.2f})"
            f"{parts[2]:8.2f}{parts[3]:7.2f}",
            flush=True,
        )


def main() -> None:
    """Measure, and print."""
    cores = cpu_count()
    counts = [w for w in (1, 2, 4, 8, 16, 32, 64) if w <= cores]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=counts)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=25.0)
    options = parser.parse_args()
    cnn.keep_freed_memory()
    print(f"{cores} cores, {options.batch} images")
    print(
        "network         workers   ms  efficiency"
        "  hand out, own part (alone), wait, update"
    )
    for name in NETWORKS:
        measure(name, options.workers, options.batch, options.seconds)


if __name__ == "__main__":
    main()
