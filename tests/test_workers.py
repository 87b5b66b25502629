"""Shards by other processes: the same step, whoever computes or dies."""

import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from short_training import FEW, VALIDATION
from toys import Centre, Trap

from cnn import (
    SGD,
    Conv2d,
    DistributedStep,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    open_workers,
    train,
    train_step,
)
from cnn.beyond.workers import blueprint


pytest.importorskip("distributed")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def client():
    with open_workers(2) as client:
        yield client


def build(*extra, dtype=np.float32):
    rng = np.random.default_rng(0)
    return Sequential(
        Sequential(Conv2d(1, 4, 3, rng=rng), ReLU()),
        *extra,
        MaxPool2d(2),
        Flatten(),
        Linear(36, 10, rng=rng),
    ).to(dtype)


def run(step, network=None, epochs=2, **options):
    """Train a little; the history, and the weights as one vector."""
    network = network or build()
    optimizer = SGD(network.parameters(), 0.05, 0.9, 1e-4)
    history = train(
        network,
        optimizer,
        FEW,
        VALIDATION,
        epochs=epochs,
        batch_size=32,
        rng=np.random.default_rng(1),
        step=step,
        **options,
    )
    return history, weights(network)


def weights(network):
    return np.concatenate([p.value.ravel() for p in network.parameters()])


# --- the same step ---------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 31])
def test_a_step_is_that_of_one_process(client, shards):
    """31 images: most numbers of shards do not divide them."""
    images = FEW.images[:31].astype(np.float64)
    labels = FEW.labels[:31]
    outcomes = []
    for step in (train_step, DistributedStep(client, shards=shards)):
        network = build(dtype=np.float64)
        optimizer = SGD(network.parameters(), 0.05, 0.9, 1e-4)
        found = [step(network, optimizer, images, labels) for _ in range(3)]
        grads = [p.grad.ravel() for p in network.parameters()]
        outcomes.append((found, np.concatenate(grads), weights(network)))
    (theirs, grad, w), (ours, our_grad, our_w) = outcomes
    np.testing.assert_allclose(our_grad, grad, rtol=0, atol=1e-13)
    np.testing.assert_allclose(our_w, w, rtol=0, atol=1e-13)
    for (loss, correct), (our_loss, our_correct) in zip(
        theirs, ours, strict=True
    ):
        assert our_loss == pytest.approx(loss, abs=1e-13)
        assert type(our_loss) is float
        assert our_correct == correct


def test_more_shards_than_images_and_the_dtype_stays(client):
    network = build()
    optimizer = SGD(network.parameters(), 0.05)
    step = DistributedStep(client, shards=5)
    _, correct = step(network, optimizer, FEW.images[:2], FEW.labels[:2])
    assert 0 <= correct <= 2
    for p in network.parameters():
        assert p.value.dtype == p.grad.dtype == np.float32


def test_the_shards_decide_the_bits_and_not_the_workers(client):
    history, w = run(DistributedStep(client, shards=3))
    with open_workers(1) as single:
        alone_history, alone = run(DistributedStep(single, shards=3))
    assert np.array_equal(w, alone)
    assert history == alone_history
    _, plain = run(train_step)
    np.testing.assert_allclose(w, plain, atol=1e-5)


def test_buffers_come_back_from_the_first_shard_and_modes_go_out(client):
    images, labels = FEW.images[:8].astype(np.float64), FEW.labels[:8]
    centre = Centre(8, in_place=True)
    network = Sequential(centre, *build(dtype=np.float64).layers)
    optimizer = SGD(network.parameters(), 0.0)
    step = DistributedStep(client, shards=2)
    for times in (1, 2):
        step(network, optimizer, images, labels)
        expected = times * images[:4].mean(axis=0)
        np.testing.assert_allclose(centre.mean.value, expected)
    network.eval()
    ours = step(network, optimizer, images, labels)
    np.testing.assert_allclose(centre.mean.value, expected)
    assert ours == pytest.approx(
        train_step(network, optimizer, images, labels)
    )


# --- a worker dies ---------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_changes_no_bit(tmp_path, client, workers):
    """With one worker, nobody is left until another is started."""
    expected = run(DistributedStep(client, shards=3))
    file, done = tmp_path / "kill", []
    with open_workers(workers) as own:
        step = DistributedStep(own, shards=3)

        def hit(*arguments):
            done.append(1)
            if len(done) == 4:
                file.touch()
            return step(*arguments)

        before = set(own.run(os.getpid).values())
        history, w = run(hit, build(Trap(file)))
        assert not file.exists()
        after = set(own.run(os.getpid).values())
    assert len(before - after) == 1
    assert np.array_equal(w, expected[1])
    assert history == expected[0]


# --- nothing is left behind, nothing is heard elsewhere --------------------


def gone(processes, within=10):
    _, alive = psutil.wait_procs(processes, timeout=within)
    return not alive


def test_workers_end_with_the_block_also_after_an_error():
    here = psutil.Process()
    others = set(here.children(recursive=True))
    with contextlib.suppress(RuntimeError), open_workers(2) as client:
        client.run(os.getpid)
        started = set(here.children(recursive=True)) - others
        raise RuntimeError
    assert len(started) >= 2
    pids = [p for p in started if "resource_tracker" not in "".join(cmd(p))]
    assert gone(pids)


def cmd(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


SCRIPT = """\
import os, time
from cnn import open_workers

if __name__ == "__main__":
    with open_workers(2) as client:
        print(*client.run(os.getpid).values(), flush=True)
        {then}
"""


def script(tmp_path, then, **options):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(then=then))
    return subprocess.Popen(
        [sys.executable, path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_workers_end_when_their_program_is_killed(tmp_path):
    with script(tmp_path, "time.sleep(60)") as program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        workers = [psutil.Process(pid) for pid in pids]
        program.kill()
    assert len(workers) == 2
    assert gone(workers)


def test_a_killed_worker_leaves_nothing_in_the_log(tmp_path):
    then = "import psutil; w = next(iter(client.run(os.getpid).values()))"
    then += "; psutil.Process(w).kill(); print(sum(client.gather("
    then += "client.map(abs, range(20)))))"
    with script(tmp_path, then, stderr=subprocess.PIPE) as program:
        out, errors = program.communicate(timeout=60)
    assert out.split()[-1] == "190"
    assert errors == ""
    assert program.returncode == 0


def test_nothing_listens_beyond_this_machine():
    with open_workers(1):
        processes = [
            psutil.Process(),
            *psutil.Process().children(recursive=True),
        ]
        addresses = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
    assert addresses == {"127.0.0.1"}


def test_a_scheduler_elsewhere_by_argument_or_variable(client):
    address = client.scheduler.address
    pids = set(client.run(os.getpid).values())
    with open_workers(5, address) as other:
        assert set(other.run(os.getpid).values()) == pids
    import dask

    with dask.config.set(scheduler_address=address), open_workers(5) as other:
        assert set(other.run(os.getpid).values()) == pids
    assert set(client.run(os.getpid).values()) == pids  # still there
    environment = {"DASK_SCHEDULER_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    code = "import os, cnn\nwith cnn.open_workers() as client:\n"
    code += "    print(*client.run(os.getpid).values())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {int(pid) for pid in done.stdout.split()} == pids


# --- small and strict ------------------------------------------------------


def test_a_blueprint_has_no_arrays_and_leaves_the_network_alone():
    network = build()
    network.forward(FEW.images)
    before = weights(network).copy()
    assert len(pickle.dumps(blueprint(network))) < 2000
    assert np.array_equal(weights(network), before)
    network.backward(np.ones((len(FEW), 10), np.float32))  # remembers


def test_import_cnn_does_not_import_dask():
    code = "import sys, cnn; print({'dask', 'distributed'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_counts_below_1_are_refused():
    with pytest.raises(ValueError, match="shards is 0"):
        DistributedStep(None, shards=0)
    with pytest.raises(ValueError, match="workers is 0"), open_workers(0):
        pass


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (FEW.images[:0], FEW.labels[:0], "images of shape .0, "),
        (FEW.images[:5], FEW.labels[:4], "labels of shape .4,.*N is 5"),
        (FEW.images[:5], FEW.labels[:5] + 90, "expected .*0..9"),
        (np.nan * FEW.images[:5], FEW.labels[:5], "the loss is nan"),
    ],
)
def test_bad_batches_are_refused_and_nothing_is_updated(
    client, images, labels, message
):
    network = build()
    before = weights(network).copy()
    optimizer = SGD(network.parameters(), 0.05)
    with pytest.raises(ValueError, match=message):
        DistributedStep(client, shards=2)(network, optimizer, images, labels)
    assert np.array_equal(weights(network), before)
