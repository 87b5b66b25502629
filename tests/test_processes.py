"""Processes that work for another: memory, messages, their end."""

import os
import pickle
import subprocess
import sys
import threading
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from cnn.back.processes import (
    arrays_in,
    receive,
    send,
    shared_arrays,
    start_process,
)


LAYOUT = np.dtype([("a", np.float32, (2, 3)), ("b", int, 4)], align=True)


def double(pipe, block, layout):
    """What the process of a test does."""
    arrays = arrays_in(block, layout)
    while True:
        arrays["a"][:] *= receive(pipe)
        send(pipe, "done")


def test_a_process_sees_what_the_caller_writes_and_the_other_way_round():
    with ExitStack() as running:
        block, arrays = shared_arrays(LAYOUT, running)
        process, pipe = start_process(double, (block, LAYOUT), running)
        arrays["a"][:] = 3
        pipe.send(2)
        assert receive(pipe) == "done"
        assert np.array_equal(arrays["a"], np.full((2, 3), 6))
        assert arrays["b"].shape == (4,)
    assert process.exitcode == 0
    assert arrays == {}
    with pytest.raises(FileNotFoundError):
        SharedMemory(block.name)


def test_the_end_of_the_other_process_is_an_error():
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(EOFError):
        receive(ours)


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()  # which no process can send to another


@pytest.mark.parametrize("message", [{"n": 3}, ValueError("seven")])
def test_a_message_arrives_as_it_is(message):
    ours, theirs = Pipe()
    send(theirs, message)
    assert pickle.dumps(receive(ours)) == pickle.dumps(message)


def test_of_an_error_that_cannot_travel_its_text_does():
    ours, theirs = Pipe()
    send(theirs, OddError(1, 2))
    found = receive(ours)
    assert type(found) is RuntimeError
    assert "1 and 2" in str(found)


def test_nothing_is_imported_before_a_process_is_started():
    code = "import sys, cnn.back.processes\n"
    code += "print({'joblib', 'threadpoolctl'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "set()"
