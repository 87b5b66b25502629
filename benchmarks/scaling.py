"""How much of each further core ParallelStep makes use of.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --workers 1 2 4 8 16 --batch 1024

One line for each network and number of workers w: milliseconds for a step,
and the efficiency T1 / (w Tw), 100 % if w workers are w times as fast as one.
Then where the caller's time goes: handing out the batch, its own part (and
what that takes while the others rest), waiting and adding, the update. The
numbers of workers take turns, so that a disturbance hits all alike.

For the most workers, a line for each rank: when it began, after the caller
did; its own part, and how much of that it had a core; waiting for those below
it; page faults and how often it was put aside, in a step. And the same for
other ways to run: smaller microbatches, each worker kept on a core of its
own, a longer spin. About a minute and a half.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
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


try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # not on every system

    def interruptions() -> tuple[float, float]:
        """Page faults and involuntary switches so far: not known here."""
        return 0.0, 0.0

else:

    def interruptions() -> tuple[float, float]:
        """Page faults and involuntary switches of this process so far."""
        usage = getrusage(RUSAGE_SELF)
        return float(usage.ru_minflt), float(usage.ru_nivcsw)


def spinning(seconds: float, give_way: bool) -> Callable[[Any], bytes]:
    """A receive that looks for a message for so long before it sleeps."""

    def receive(pipe: Any) -> bytes:
        end = time.perf_counter() + seconds
        while not pipe.poll() and time.perf_counter() < end:
            if give_way:
                os.sched_yield()
        return bytes(pipe.recv_bytes())

    return receive


class TimedWorker(parallel.Worker):
    """A worker that notes its times in a block of memory, a row a rank."""

    notes: str  # the block's name
    last: np.ndarray
    cores: Sequence[int]
    spin: float
    give_way: bool

    def prepare(self) -> None:
        """Run as the variant says."""
        self.block = parallel.SharedBlock(self.notes)
        rows = np.ndarray((self.workers, 6), float, buffer=self.block.buf)
        self.last = rows[self.rank]
        if self.cores:
            os.sched_setaffinity(0, {self.cores[self.rank]})
        if self.spin:
            vars(parallel)["receive"] = spinning(self.spin, self.give_way)

    def compute(self, *arguments: Any) -> tuple[float, int, np.ndarray]:
        if not hasattr(self, "last"):
            self.prepare()
        receive, done = parallel.receive, []

        def noted_receive(pipe: Any) -> bytes:
            done.append((time.perf_counter(), time.process_time()))
            return receive(pipe)

        parallel.receive = noted_receive
        before = interruptions()
        start, cpu = time.perf_counter(), time.process_time()
        try:
            found = super().compute(*arguments)
        finally:
            parallel.receive = receive
        end = time.perf_counter(), time.process_time()
        worked = [*done, end][0]
        after = interruptions()
        self.last[:] = (
            start,
            worked[0] - start,
            worked[1] - cpu,
            end[0] - worked[0],
            after[0] - before[0],
            after[1] - before[1],
        )
        return found


def run_variant(
    name: str,
    workers: int,
    batch: int,
    seconds: float,
    *,
    microbatch_size: int = 48,
    cores: Sequence[int] = (),
    spin: float = 0.0,
    give_way: bool = True,
) -> tuple[float, np.ndarray]:
    """Milliseconds of a step, and the medians and means of all ranks."""
    images, labels, network, sgd = task(name, batch)
    notes = parallel.SharedBlock(create=True, size=48 * workers)
    rows = np.ndarray((workers, 6), float, buffer=notes.buf)
    usual, receive = parallel.Worker, parallel.receive
    parallel.Worker = TimedWorker  # type: ignore[misc]
    TimedWorker.notes, TimedWorker.cores = notes.name, cores
    TimedWorker.spin, TimedWorker.give_way = spin, give_way
    everywhere = os.sched_getaffinity(0)
    found: list[np.ndarray] = []
    took: list[float] = []
    with parallel.ParallelStep(
        network, workers=workers, microbatch_size=microbatch_size
    ) as step:
        step(network, sgd, images, labels)
        step(network, sgd, images, labels)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(took) < 5:
            start = time.perf_counter()
            step(network, sgd, images, labels)
            took.append(time.perf_counter() - start)
            found.append(rows - np.array([start, 0, 0, 0, 0, 0]))
    os.sched_setaffinity(0, everywhere)
    parallel.Worker = usual  # type: ignore[misc]
    parallel.receive = receive
    notes.unlink()
    medians, means = np.median(found, axis=0), np.mean(found, axis=0)
    per_rank = np.hstack([1e3 * medians[:, :4], means[:, 4:]])
    return 1e3 * float(np.median(took)), per_rank


def print_ranks(name: str, workers: int, batch: int) -> None:
    """What each worker did, and what other ways to run would give."""
    ms, ranks = run_variant(name, workers, batch, 3)
    print(
        f"      rank  begins    part  (on a core)   waits  faults  aside {ms}"
    )
    for rank, row in enumerate(ranks):
        print(
            f"{rank:10}{row[0]:8.2f}{row[1]:8.2f}   ({row[2]:.2f})"
            f"{row[3]:11.2f}{row[4]:8.1f}{row[5]:8.2f}"
        )
    allowed = sorted(os.sched_getaffinity(0))
    own = [allowed[rank % len(allowed)] for rank in range(workers)]
    variants: dict[str, dict[str, Any]] = {
        "as it is": {},
        "microbatch 16": {"microbatch_size": 16},
        "microbatch 32": {"microbatch_size": 32},
        "a core each": {"cores": own},
        "a core each, 16": {"cores": own, "microbatch_size": 16},
        "spin 30 ms": {"spin": 0.03},
        "30 ms, no yield": {"spin": 0.03, "give_way": False},
        "both, a core each": {"spin": 0.03, "give_way": False, "cores": own},
    }
    print(
        "  variant             ms  latest begin, part: slowest  mean  on core"
    )
    for variant, options in variants.items():
        ms, ranks = run_variant(name, workers, batch, 1, **options)
        print(
            f"  {variant:18}{ms:7.2f}{ranks[:, 0].max():9.2f}"
            f"{ranks[:, 1].max():15.2f}{ranks[:, 1].mean():9.2f}"
            f"{ranks[:, 2].mean():9.2f}",
            flush=True,
        )


def task(
    name: str, batch: int
) -> tuple[np.ndarray, np.ndarray, cnn.Sequential, cnn.SGD]:
    """Images, labels, a network and its optimizer."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    network = NETWORKS[name]()
    sgd = cnn.SGD(network.parameters(), 0.001)
    return images, rng.integers(0, 10, batch), network, sgd


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
    images, labels, network, sgd = task(name, batch)
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


def siblings() -> str:
    """Which of the system's processors are halves of one core."""
    cpu = Path("/sys/devices/system/cpu")
    lists = sorted(cpu.glob("cpu*/topology/thread_siblings_list"))
    return "of one core: " + " ".join(
        sorted({path.read_text().strip() for path in lists})
    )


def main() -> None:
    """Measure, and print."""
    cores = cpu_count()
    counts = [w for w in (1, 2, 4, 8, 16, 32, 64) if w <= cores]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=counts)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    cnn.keep_freed_memory()
    print(f"{cores} cores, {options.batch} images, {siblings()}")
    print(
        "network         workers   ms  efficiency"
        "  hand out, own part (alone), wait, update"
    )
    for name in NETWORKS:
        measure(name, options.workers, options.batch, options.seconds)
        print_ranks(name, max(options.workers), options.batch)


if __name__ == "__main__":
    main()
