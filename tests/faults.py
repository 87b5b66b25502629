"""Disks that fill up and processes that die: for test_faults.py.

What is done to files is counted, and harm is done at the k-th of them. So a
test can try every k: no moment is left out.
"""

import builtins
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from short_training import bits, run
from tqdm import tqdm

from cnn import load_dataset, run_experiment


# What changes a folder; the content of files is changed by write alone.
CHANGES = ("fsync", "mkdir", "replace", "rename", "rmdir", "unlink", "remove")
REMOVES = ("rmdir", "unlink", "remove")  # they never lack space


class Disk:
    """While it is entered, all that changes files is counted.

    harm: is called at the k-th change, and at all later ones if for_good; a
        write is half done by then.
    kills: harm ends the process. Else it raises: then neither what removes
        files nor the moment just after a change can fail.
    buffer: how many bytes are gathered into one write.
    """

    def __init__(
        self,
        harm: Callable[[], None] = lambda: None,
        k: float = float("inf"),
        *,
        for_good: bool = False,
        kills: bool = False,
        buffer: int = io.DEFAULT_BUFFER_SIZE,
    ) -> None:
        self.harm, self.k = harm, k
        self.for_good, self.kills = for_good, kills
        self.buffer, self.count = buffer, 0
        self.counted = [
            name for name in CHANGES if kills or name not in REMOVES
        ]

    def due(self) -> bool:
        """Count one change; is harm due at it?"""
        self.count += 1
        return self.count == self.k or (self.for_good and self.count > self.k)

    def __enter__(self) -> "Disk":
        disk = self
        self.real = {name: getattr(os, name) for name in self.counted}
        self.open = io.open

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                if disk.due():
                    super().write(bytes(content)[: len(content) // 2])
                    disk.harm()
                return super().write(content)

        def counted_open(file: Any, mode: str = "r", *rest: Any, **more: Any):
            if isinstance(file, int) or not set(mode) & set("wxa"):
                return disk.open(file, mode, *rest, **more)
            if disk.due():
                disk.harm()
            plain = mode.replace("b", "").replace("t", "")
            raw = io.BufferedWriter(Raw(file, plain), disk.buffer)
            return raw if "b" in mode else io.TextIOWrapper(raw)

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def change(*given: Any, **more: Any) -> Any:
                if disk.due():
                    disk.harm()
                done = real(*given, **more)
                if disk.kills and disk.due():  # just after it, too
                    disk.harm()
                return done

            return change

        for name, real in self.real.items():
            setattr(os, name, counted(real))
        io.open = builtins.open = counted_open
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, real in self.real.items():
            setattr(os, name, real)
        io.open = builtins.open = self.open


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork(work: Callable[[], object]) -> int:
    """Do the work in a child process; returns its id."""
    # tqdm's own lock is one for parent and child: a child that is killed
    # while it holds that would stop the parent for ever.
    tqdm.set_lock(threading.RLock())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return child


def end_of(child: int) -> int:
    """Wait for a child; 0 if it was well, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_each_write(
    work: Callable[[Path], object],
    check: Callable[[Path], object],
    folder: Path,
    buffer: int = io.DEFAULT_BUFFER_SIZE,
) -> int:
    """Kill the work at its k-th change of files, for each k there is.

    work: gets a folder of its own, which is empty, in a child process.
    check: gets that folder afterwards.
    Returns how many children were killed.
    """
    k = 0
    while True:
        k += 1
        place = folder / str(k)
        place.mkdir()

        def killed(k: int = k, place: Path = place) -> None:
            with Disk(kill, k, kills=True, buffer=buffer):
                work(place)

        code = end_of(fork(killed))
        assert code in (0, -signal.SIGKILL), code
        check(place)
        if code == 0:
            return k - 1


# Works, each of which must end as if nothing had happened.


def training(folder: Path, **options: object) -> object:
    """A training with a checkpoint: its history and weights."""
    options = {"epochs": 2, "checkpoint": folder / "run.npz"} | options
    network, _, history = run(**options)
    return history, bits(network)


def experiment(seed: int, size: int) -> list[object]:
    return [seed, np.arange(size).tobytes()]


def experiments(folder: Path) -> object:
    """Two experiments, whose results are kept in the folder."""
    os.environ["CNN_RESULTS"] = str(folder / "results")
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    return run_experiment(experiment, {"a": {"size": 9}}, seeds=2)


def numbers(count: int, top: int, *shape: int) -> bytes:
    """An IDX file of so many items, each below top."""
    sizes = b"".join(n.to_bytes(4, "big") for n in (count, *shape))
    drawn = np.random.default_rng(count).integers(0, top, (count, *shape))
    header = bytes([0, 0, 8, 1 + len(shape)])
    return header + sizes + drawn.astype(np.uint8).tobytes()


MNIST = {
    "train-images-idx3-ubyte": numbers(5010, 256, 28, 28),
    "train-labels-idx1-ubyte": numbers(5010, 10),
    "t10k-images-idx3-ubyte": numbers(10, 256, 28, 28),
    "t10k-labels-idx1-ubyte": numbers(10, 10),
}


def give_mnist(dataset: object) -> None:
    """What torchvision does, without a network."""
    raw = Path(dataset.raw_folder)
    raw.mkdir(parents=True)
    for file, content in MNIST.items():
        (raw / file).write_bytes(content)


def download(folder: Path) -> object:
    """A data set that is downloaded to the folder."""
    import torchvision

    torchvision.datasets.MNIST.download = give_mnist
    splits = load_dataset("mnist", folder)
    return [(s.images.tobytes(), s.labels.tobytes()) for s in splits]
