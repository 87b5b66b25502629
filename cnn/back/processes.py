# Written by book/back/processes.md. To keep edits: tangle.py --back.
"""Processes that work for another: how they start, share and hear of it."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np


def arrays_in(block: SharedMemory, layout: np.dtype) -> dict[str, np.ndarray]:
    """Arrays by name in a block of memory, which must outlive them.

    layout: a structured type; each of its fields is an array.
    """
    whole = np.ndarray((1,), layout, buffer=block.buf)
    return {name: whole[name][0] for name in layout.names or ()}


def shared_arrays(
    layout: np.dtype, running: ExitStack
) -> tuple[SharedMemory, dict[str, np.ndarray]]:
    """Memory that processes can share, and its arrays by name.

    layout: of arrays_in; running: gives the memory back when closed, and
        empties the dict, as nobody must look into it any more.
    """
    block = SharedMemory(create=True, size=layout.itemsize)
    arrays = arrays_in(block, layout)
    running.callback(block.unlink)
    running.callback(block.close)
    running.callback(arrays.clear)
    return block, arrays


def start_process(
    target: Callable[..., None], arguments: Any, running: ExitStack
) -> tuple[Any, Any]:
    """A process that runs target(pipe, *arguments), and our end of the pipe.

    A class of the caller's own, even of a notebook, travels with them; its
    file is not imported.
    running: closes our end when closed, and waits for the process.
    """
    from joblib.externals.loky.backend import get_context

    context = get_context("loky")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=run, args=(target, theirs, *arguments), daemon=True
    )
    process.start()
    theirs.close()
    running.callback(process.join)
    running.callback(ours.close)
    return process, ours


def run(target: Callable[..., None], *arguments: Any) -> None:
    """What a process does: target(*arguments), until a pipe is closed."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the caller
    threadpool_limits(1, user_api="blas")
    with suppress(EOFError, ConnectionError):
        target(*arguments)


def receive(pipe: Any) -> Any:
    """The next message in a pipe; EOFError if the other process has ended.

    It spins for up to 2 ms first, because a blocked reader wakes slowly.
    """
    give_way = getattr(os, "sched_yield", lambda: None)
    end = time.perf_counter() + 0.002
    while not pipe.poll() and time.perf_counter() < end:
        give_way()
    return pipe.recv()


def send(pipe: Any, message: Any) -> None:
    """Send a message through a pipe; its text, where it cannot travel.

    The class of an error may be known here alone.
    """
    try:
        pickle.loads(pickle.dumps(message))
    except Exception:
        message = RuntimeError(repr(message))
    pipe.send(message)
