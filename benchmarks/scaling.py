"""How much of each further core ParallelStep makes use of.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --workers 1 2 4 8 16 --batch 1024

One line for each network and number of workers w: milliseconds for a step,
and the efficiency T1 / (w Tw), 100 % if w workers are w times as fast as one.
Then where the caller's time goes: handing out the batch, its own part,
waiting for the others and adding, the update. The numbers of workers take
turns, so that a disturbance hits all alike. And the ceiling: w processes that
do the same work and never talk; of these, the median and the slowest. About a
minute and a half.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from joblib import cpu_count

import cnn
from cnn.back.processes import receive, start_process
from cnn.beyond.fast import fuse_layers
from cnn.beyond.parallel import ParallelStep, Worker


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


class TimedStep(ParallelStep):
    """A step that notes when each of its parts was done."""

    marks: list[float]

    def submit(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.marks = [time.perf_counter()]
        super().submit(images, labels)
        self.marks.append(time.perf_counter())

    def gather(self, answer: Any) -> tuple[float, int, np.ndarray]:
        self.marks.append(time.perf_counter())
        found = super().gather(answer)
        self.marks.append(time.perf_counter())
        return found

    def timed(self, *arguments: Any) -> list[float]:
        """Seconds of each part of one step."""
        self(self.network, *arguments)
        return [float(s) for s in np.diff([*self.marks, time.perf_counter()])]


def work_alone(
    pipe: Any, worker: Worker, images: np.ndarray, labels: np.ndarray
) -> None:
    """What a process does that never talks, until its pipe is closed."""
    cnn.keep_freed_memory()
    while True:
        end = time.perf_counter() + receive(pipe)
        took: list[float] = []
        while time.perf_counter() < end or not took:
            start = time.perf_counter()
            worker.work(images, labels)
            took.append(time.perf_counter() - start)
        pipe.send(float(np.median(took)))


def ceiling(
    name: str, workers: int, images: np.ndarray, labels: np.ndarray
) -> list[float]:
    """Seconds for a part, of each of so many processes that never talk."""
    network = fuse_layers(NETWORKS[name]())
    with ExitStack() as running:
        pipes = []
        for rank in range(workers):
            worker = Worker(rank, workers, network, 48)
            given = worker, images, labels
            pipes.append(start_process(work_alone, given, running)[1])
        for seconds in (0.0, 2.0):  # once, so that all are ready
            for pipe in pipes:
                pipe.send(seconds)
            found = [receive(pipe) for pipe in pipes]
    return found


def measure(name: str, counts: list[int], batch: int, seconds: float) -> None:
    """Time a network with each number of workers; print a line for each."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, batch)
    network = NETWORKS[name]()
    sgd = cnn.SGD(network.parameters(), 0.001)
    parts: dict[int, list[list[float]]] = {w: [] for w in counts}
    with ExitStack() as running:
        steps = {
            w: running.enter_context(TimedStep(network, workers=w))
            for w in counts
        }
        for step in steps.values():
            step(network, sgd, images, labels)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for w, step in steps.items():
                time.sleep(0.005)  # the others' workers fall asleep
                step(network, sgd, images, labels)
                for _ in range(2 * w):
                    parts[w].append(step.timed(sgd, images, labels))
    one = float(np.median(np.sum(parts[counts[0]], axis=1))) * counts[0]
    for w in counts:
        took = float(np.median(np.sum(parts[w], axis=1)))
        ms = 1e3 * np.median(parts[w], axis=0)
        print(
            f"{name:17}{w:4}{1e3 * took:9.2f}{one / (w * took):8.0%}"
            f"{ms[0]:11.2f}{ms[1]:9.2f}{ms[2]:7.2f}{ms[3]:8.2f}",
            flush=True,
        )
    free = 1e3 * np.array(ceiling(name, counts[-1], images, labels))
    print(
        f"{name:17}{counts[-1]:4} that never talk: median "
        f"{np.median(free):.2f}, slowest {free.max():.2f} ms"
    )


def main() -> None:
    """Measure, and print."""
    cores = cpu_count()
    counts = [w for w in (1, 2, 4, 8, 16, 32, 64) if w <= cores]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=counts)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    cnn.keep_freed_memory()
    print(f"{cores} cores, {options.batch} images")
    print(
        "network         workers   ms  efficiency"
        "  hand out, own part, wait, update"
    )
    for name in NETWORKS:
        measure(name, options.workers, options.batch, options.seconds)


if __name__ == "__main__":
    main()
