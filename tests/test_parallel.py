"""The step on all cores: the same numbers as cnn.train_step."""

import copy
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.shared_memory import SharedMemory
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import Centre, Mean, to_torch, two_poolings

import cnn
from cnn.back.processes import shared_arrays
from cnn.beyond.parallel import (
    ParallelStep,
    Worker,
    microbatches,
    parameters_to_vector,
    vector_to_parameters,
)


def batch(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 1, 12, 12)), rng.integers(0, 5, n)


def values(network: cnn.Layer) -> np.ndarray:
    return parameters_to_vector(p.value for p in network.parameters())


def grads(network: cnn.Layer) -> np.ndarray:
    return parameters_to_vector(p.grad for p in network.parameters())


@given(st.integers(0, 300), st.integers(1, 40))
def test_microbatches_are_the_part_each_image_once_and_none_too_large(n, size):
    x = np.arange(n)
    pieces = [piece for piece, _ in microbatches(x, x, size)]
    assert np.array_equal(np.concatenate([x[:0], *pieces]), x)
    lengths = [len(piece) for piece in pieces] or [0]
    assert max(lengths) <= 1.5 * size
    assert max(lengths) - min(lengths) <= 1
    assert 0 not in lengths or n == 0


@pytest.mark.parametrize(
    ("n", "lengths"),
    [(10, [10]), (71, [71]), (73, [36, 37]), (121, [40, 40, 41])],
)
def test_a_microbatch_has_about_48_images_unless_told(n, lengths):
    size = ParallelStep(cnn.ReLU(), workers=1).microbatch_size
    pieces = microbatches(np.arange(n), np.arange(n), size)
    assert [len(labels) for _, labels in pieces] == lengths


@given(st.integers(1, 3000), st.integers(1, 40))
def test_parts_are_the_batch_each_image_once_and_nearly_equal(n, workers):
    parts = [Worker(r, workers, cnn.ReLU(), 8).part(n) for r in range(workers)]
    x = np.arange(n)
    assert np.array_equal(np.concatenate([x[part] for part in parts]), x)
    lengths = [len(x[part]) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_vector_to_parameters_is_the_inverse_of_parameters_to_vector():
    parameters = two_poolings().parameters()
    for p, value in vector_to_parameters(values(two_poolings()), parameters):
        assert np.array_equal(p.value, value)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 25])
def test_the_gradient_and_the_update_are_those_of_train_step(workers, n):
    network, (x, labels) = two_poolings(), batch(n)
    twin = copy.deepcopy(network)
    first, second = (
        cnn.SGD(net.parameters(), 0.1, 0.9, 0.01) for net in (network, twin)
    )
    with ParallelStep(network, workers=workers, microbatch_size=4) as step:
        for _ in range(3):
            ours = step(network, first, x, labels)
            theirs = cnn.train_step(twin, second, x, labels)
            assert ours[0] == pytest.approx(theirs[0], rel=1e-12)
            assert ours[1] == theirs[1]
            assert np.allclose(grads(network), grads(twin), 1e-10, 1e-13)
    assert np.allclose(values(network), values(twin), 1e-10, 1e-13)


def test_ten_steps_stay_beside_pytorch():
    network, (x, labels) = two_poolings(), batch(24)
    theirs = to_torch(network)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, 0.9)
    sgd = cnn.SGD(network.parameters(), 0.05, 0.9)
    with ParallelStep(network, workers=2, microbatch_size=5) as step:
        for _ in range(10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                theirs(torch.from_numpy(x)), torch.from_numpy(labels)
            )
            loss.backward()
            optimizer.step()
            ours, _ = step(network, sgd, x, labels)
            assert ours == pytest.approx(loss.item(), rel=1e-10)
    flat_theirs = parameters_to_vector(
        p.detach().numpy() for p in theirs.parameters()
    )
    assert np.allclose(values(network), flat_theirs, 1e-9, 1e-12)


def test_the_same_number_of_workers_gives_the_same_bits():
    results = []
    for _ in range(2):
        network, (x, labels) = two_poolings().to(np.float32), batch(40)
        sgd = cnn.SGD(network.parameters(), 0.1)
        with ParallelStep(network, workers=2, microbatch_size=8) as step:
            for _ in range(3):
                step(network, sgd, x.astype(np.float32), labels)
        results.append(values(network))
    assert np.array_equal(*results)


def test_batches_may_change_in_size_dtype_and_image_size():
    rng = np.random.default_rng(0)
    conv = cnn.Conv2d(1, 5, 3, rng=rng)
    layers = conv, cnn.ReLU(), cnn.MaxPool2d(2), Mean()
    network = cnn.Sequential(*layers).to(np.float64)
    sgd = cnn.SGD(network.parameters(), 0.0)
    with ParallelStep(network, workers=2, microbatch_size=4) as step:
        for n, side, labels_dtype in (
            (3, 12, int),
            (30, 12, int),
            (1, 12, int),
            (8, 12, np.uint8),
            (8, 9, np.uint8),
            (8, 12, np.uint8),
        ):
            x, labels = batch(n)
            x, labels = x[..., :side], labels.astype(labels_dtype)
            loss, _ = step(network, sgd, x, labels)
            logits = network.forward(x)
            assert loss == pytest.approx(cnn.cross_entropy(logits, labels))


def test_it_sees_weights_that_the_caller_replaced():
    network, (x, labels) = two_poolings(), batch(9)
    sgd = cnn.SGD(network.parameters(), 0.0)
    with ParallelStep(network, workers=2) as step:
        step(network, sgd, x, labels)
        for p in network.parameters():
            p.value = p.value * 0.5
        loss, _ = step(network, sgd, x, labels)
    expected = cnn.cross_entropy(network.forward(x), labels)
    assert loss == pytest.approx(expected)


def test_it_takes_its_place_in_train():
    network = two_poolings().to(np.float32)
    x, labels = batch(60)
    data = cnn.Dataset(
        "random", x.astype(np.float32), labels, tuple("abcde"), 0, 1
    )
    sgd = cnn.SGD(network.parameters(), 0.05, 0.9)
    with ParallelStep(network, workers=2) as step:
        history = cnn.train(
            network,
            sgd,
            data,
            data,
            epochs=20,
            batch_size=20,
            rng=np.random.default_rng(0),
            step=step,
        )
    assert history[-1].train_loss < 0.5 * history[0].train_loss


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_that_is_not_finite_raises_before_any_update(workers):
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)
    before = values(network)
    with ParallelStep(network, workers=workers) as step:
        bad = x.copy()
        bad[0] = np.nan  # in the share of the caller
        with pytest.raises(ValueError, match=r"finite.* lr, which is 0\.1"):
            step(network, sgd, bad, labels)
        bad = x.copy()
        bad[-1] = np.nan  # in that of the last worker
        with pytest.raises(ValueError, match=r"finite.* lr, which is 0\.1"):
            step(network, sgd, bad, labels)
        assert np.array_equal(values(network), before)
        step(network, sgd, x, labels)  # and the next one works
    assert not np.array_equal(values(network), before)


@pytest.mark.parametrize("place", [0, -1])
def test_an_error_of_a_worker_reaches_the_caller_and_the_next_step_works(
    place,
):
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)
    before = values(network)
    with ParallelStep(network, workers=2) as step:
        wrong = labels.copy()
        wrong[place] = 5
        with pytest.raises(ValueError, match=r"labels of shape .*expected"):
            step(network, sgd, x, wrong)
        assert np.array_equal(values(network), before)
        loss, _ = step(network, sgd, x, labels)
    expected = two_poolings()
    assert loss == pytest.approx(
        cnn.cross_entropy(expected.forward(x), labels)
    )


def test_what_it_refuses():
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)
    with pytest.raises(ValueError, match="workers is 0"):
        ParallelStep(network, workers=0)
    with pytest.raises(ValueError, match="microbatch_size is 0"):
        ParallelStep(network, workers=1, microbatch_size=0)
    with ParallelStep(network, workers=1) as step:
        with pytest.raises(ValueError, match="another network"):
            step(two_poolings(), sgd, x, labels)
        with pytest.raises(ValueError, match=r"images of shape .0, "):
            step(network, sgd, x[:0], labels[:0])
        with pytest.raises(
            ValueError, match=r"of shape .7,.*N is 8 as in images"
        ):
            step(network, sgd, x, labels[:7])
    with pytest.raises(ValueError, match="closed"):
        step(network, sgd, x, labels)


def test_another_number_of_channels_is_the_layers_affair():
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)
    with ParallelStep(network, workers=2) as step:
        step(network, sgd, x, labels)
        with pytest.raises(ValueError, match=r"^Conv2d was given x of shape"):
            step(network, sgd, np.repeat(x, 2, axis=1), labels)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def freed(name: str) -> bool:
    try:
        block = SharedMemory(name)
    except FileNotFoundError:
        return True
    block.close()
    return False


def test_close_ends_the_workers_and_removes_their_memory():
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)
    step = ParallelStep(network, workers=3)
    step(network, sgd, x, labels)
    pids, name = [p.pid for p in step.processes], step.block.name
    assert not any(map(gone, pids))
    assert not freed(name)
    step.close()
    step.close()  # a second time does no harm
    assert all(map(gone, pids))
    assert freed(name)


def test_a_dead_worker_is_reported_and_the_others_are_ended():
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)
    with ParallelStep(network, workers=3) as step:
        step(network, sgd, x, labels)
        before = values(network)
        pids = [p.pid for p in step.processes]
        os.kill(pids[0], signal.SIGKILL)
        step.processes[0].join()
        with pytest.raises(RuntimeError, match=r"worker process .* died"):
            step(network, sgd, x, labels)
        assert np.array_equal(values(network), before)
    assert all(map(gone, pids))


def test_ctrl_c_is_for_the_caller():
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.0)
    with ParallelStep(network, workers=2) as step:
        first = step(network, sgd, x, labels)
        os.kill(step.processes[0].pid, signal.SIGINT)
        time.sleep(0.1)
        assert step(network, sgd, x, labels) == first


def test_an_interrupted_step_leaves_no_half_read_answer(monkeypatch):
    network, (x, labels) = two_poolings(), batch(8)
    sgd = cnn.SGD(network.parameters(), 0.1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with ParallelStep(network, workers=2) as step:
        step(network, sgd, x, labels)
        before = values(network)
        monkeypatch.setattr(step.worker, "work", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step(network, sgd, x, labels)
        assert np.array_equal(values(network), before)
        with pytest.raises(ValueError, match="closed"):
            step(network, sgd, x, labels)


def test_a_script_without_a_main_guard_leaves_no_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, cnn, os\n"
        "rng = np.random.default_rng(0)\n"
        "net = cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 3, rng=rng))\n"
        "sgd = cnn.SGD(net.parameters(), 0.1)\n"
        "step = cnn.ParallelStep(net, workers=2)\n"
        "x = rng.standard_normal((4, 1, 2, 2)).astype(np.float32)\n"
        "print(step(net, sgd, x, np.array([0, 1, 2, 0])))\n"
        "print(step.processes[0].pid, step.block.name)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0
    assert done.stderr == ""
    pid, name = done.stdout.splitlines()[1].split()
    assert gone(int(pid))
    assert freed(name)


def test_workers_end_when_their_caller_is_killed(tmp_path):
    code = (
        "import numpy as np, cnn, time\n"
        "rng = np.random.default_rng(0)\n"
        "net = cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 3, rng=rng))\n"
        "step = cnn.ParallelStep(net, workers=2)\n"
        "step.start(np.zeros((4, 1, 2, 2)), np.arange(4))\n"
        "print(step.processes[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TMPDIR": str(tmp_path),
        },
    )
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    for _ in range(100):
        if gone(pid):
            break
        time.sleep(0.1)
    assert gone(pid)


def test_more_workers_than_images():
    network, (x, labels) = two_poolings(), batch(3)
    twin = copy.deepcopy(network)
    first, second = (cnn.SGD(n.parameters(), 0.1) for n in (network, twin))
    with ParallelStep(network, workers=5) as step:
        ours = step(network, first, x, labels)
    theirs = cnn.train_step(twin, second, x, labels)
    assert ours == pytest.approx(theirs)
    assert np.allclose(values(network), values(twin))


@pytest.mark.parametrize("in_place", [False, True])
def test_buffers_come_back_from_the_callers_part_and_go_to_all(in_place):
    (x, labels), centre = batch(8), Centre(12, in_place)
    network = cnn.Sequential(centre, *two_poolings().layers)
    sgd = cnn.SGD(network.parameters(), 0.0)
    with ParallelStep(network, workers=2, microbatch_size=8) as step:
        step(network, sgd, x, labels)
        assert np.allclose(centre.mean.value, x[:4].mean(axis=0))
        step(network, sgd, x, labels)
        assert np.allclose(centre.mean.value, 2 * x[:4].mean(axis=0))
        centre.mean.value = np.full((1, 12, 12), 0.3)
        network.eval()
        ours = step(network, sgd, x, labels)
        kept = centre.mean.value.copy()
        theirs = cnn.train_step(network, sgd, x, labels)
        network.train()
        step(network, sgd, x, labels)
    assert ours == pytest.approx(theirs)
    assert np.array_equal(kept, np.full((1, 12, 12), 0.3))
    assert np.allclose(centre.mean.value, 0.3 + x[:4].mean(axis=0))


def test_a_worker_does_its_part_of_what_it_is_told():
    """As the processes of the others do, in a thread of this one."""
    (x, labels), centre = batch(9), Centre(12, False)
    network = cnn.Sequential(centre, *two_poolings(1).layers).eval()
    served = copy.deepcopy(network)
    weights, mean = values(two_poolings(2)), np.full((1, 12, 12), 0.3)
    layout = np.dtype(
        [
            ("weights", weights.dtype, weights.shape),
            ("gradients", weights.dtype, (2, len(weights))),
            ("images", x.dtype, (12, *x.shape[1:])),
            ("labels", labels.dtype, (12,)),
        ]
    )
    ours, theirs = Pipe()

    def serve() -> None:
        with theirs, suppress(EOFError):
            Worker(1, 2, served, 4).serve(theirs, block, layout)

    with ExitStack() as running:
        block, shared = shared_arrays(layout, running)
        shared["images"][:9], shared["labels"][:9] = x, labels
        shared["gradients"][:] = 7
        thread = Thread(target=serve)
        thread.start()
        running.callback(thread.join)
        running.callback(ours.close)
        shared["weights"][:] = weights  # seen, though the worker runs
        ours.send((9, [mean]))
        loss, correct = ours.recv()
        gradients = shared["gradients"].copy()
        shared["labels"][8] = 99
        ours.send((9, [mean]))
        refused = ours.recv()
    for own, value in vector_to_parameters(weights, network.parameters()):
        own.value = value
    centre.mean.value = mean
    expected = Worker(1, 2, network, 4).work(x, labels)
    assert (loss, correct) == expected[:2]
    assert np.array_equal(gradients, [np.full(len(weights), 7), expected[2]])
    assert isinstance(refused, ValueError)


OWN_LAYER = """
import numpy as np
import cnn

class RefusedError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

class Twice(cnn.Layer):
    def forward(self, x):
        if x.max() > 1e6:
            raise RefusedError(1, 2)
        return 2 * x

    def backward(self, grad_output):
        return 2 * grad_output

rng = np.random.default_rng(0)
net = cnn.Sequential(Twice(), cnn.Flatten(), cnn.Linear(4, 3, rng=rng))
sgd = cnn.SGD(net.parameters(), 0.1)
x = rng.standard_normal((6, 1, 2, 2)).astype(np.float32)
labels = np.arange(6) % 3
with cnn.ParallelStep(net, workers=2) as step:
    first = step(net, sgd, x, labels)[0]
    for _ in range(20):
        last = step(net, sgd, x, labels)[0]
    assert last < first
    x[-1] = 1e7
    try:
        step(net, sgd, x, labels)
    except RuntimeError as error:
        print(error)
    step(net, sgd, x[:4], labels[:4])
"""


def test_a_layer_of_a_script_trains_and_its_own_error_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(OWN_LAYER)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == ""
    assert done.stdout == "RefusedError('1 and 2')\n"


def test_a_layer_of_a_notebook_trains():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    path = f"import sys; sys.path[:0] = {sys.path!r}"
    cells = [nbformat.v4.new_code_cell(c) for c in (path, OWN_LAYER)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=60).execute()
    (output,) = notebook.cells[1].outputs
    assert "1 and 2" in output.text
