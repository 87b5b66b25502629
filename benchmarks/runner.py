"""A contestant in a process of its own: timed in turns, or weighed."""

import atexit
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.contestants import CONTESTANTS, Contestant, Task


def seconds(f: Callable[[], Any], at_least: float) -> float:
    """The median of several calls.

    Those of the first fifth of a second are not counted: idle threads of
    others fall asleep, and the system finds a core for each of ours.
    """
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        f()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def be_silent() -> None:
    """Keep what other programs warn of from between the rows of the table."""
    warnings.simplefilter("ignore")
    os.environ["TORCH_LOGS"] = "-all"  # errors alone; read when it starts


def new_process() -> ProcessPoolExecutor:
    """One process, started afresh."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=be_silent)


class Runner:
    """A contestant in a process of its own, which sleeps between its turns."""

    running: Contestant  # in that process

    def __init__(self, label: str, the_task: Task) -> None:
        self.pool = new_process()
        self.loss = self.call(Runner.start, label, the_task)

    def call(self, f: Callable[..., float], *arguments: Any) -> float:
        """f(*arguments), there."""
        return self.pool.submit(f, *arguments).result()

    @staticmethod
    def start(label: str, the_task: Task) -> float:
        """Be this contestant from now on; the loss of its first step."""
        threadpool_limits(the_task.threads, user_api="blas")
        maker = CONTESTANTS[label](the_task)
        Runner.running = maker.__enter__()
        atexit.register(maker.__exit__, None, None, None)
        return Runner.running.train()

    @staticmethod
    def time(kind: str) -> float:
        """Seconds of a step, or of inference."""
        return seconds(getattr(Runner.running, kind), 0.05)


def status(pid: int | str, key: str) -> float:
    """A figure in megabytes from Linux's list about a process."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def measure_memory(label: str, small: Task, large: Task) -> float:
    """Megabytes that training steps add, at their peak, to what was there.

    What was there: the libraries, the network, the batch, and whatever a
    step on four images leaves behind. All processes are added up.
    """
    threadpool_limits(large.threads, user_api="blas")
    added = 0.0
    with CONTESTANTS[label](small) as run:
        run.train()
    with CONTESTANTS[label](large) as run:
        time.sleep(1)  # for the other processes to have started
        pids = ["self", *run.others]
        before = [status(pid, "VmRSS") for pid in pids]
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5", "utf-8")
        for _ in range(5):
            run.train()
        for pid, resident in zip(pids, before, strict=True):
            added += status(pid, "VmHWM") - resident
    return added
