"""The loop learns, repeats itself to the bit, and survives a kill."""

import contextlib
import io
import json
import math
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BROKEN_STREAMS
from short_training import (
    FEW,
    HELD_OUT,
    TEST,
    TRAINING,
    VALIDATION,
    bits,
    run,
    start,
)
from toys import seed_network, to_torch

from cnn import (
    SGD,
    Conv2d,
    Dataset,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    cosine_schedule,
    evaluate,
    predict,
    softmax,
    train,
    train_step,
)
from cnn.metrics import EpochMetrics
from cnn.network import save_arrays
from cnn.training import (
    Checkpoint,
    epochs_since_best,
    partial_step,
)


ROOT = Path(__file__).resolve().parents[1]


# --- it learns -------------------------------------------------------------


def test_overfits_20_images():
    network, optimizer, _ = start(lr=0.02, filters=8)
    twenty = TRAINING.subset(slice(20))
    for _ in range(100):
        train_step(network, optimizer, twenty.images, twenty.labels)
    loss, accuracy = evaluate(network, twenty)
    assert accuracy == 1
    assert loss < 0.02


def test_reaches_its_accuracy_on_the_digits():
    rng = np.random.default_rng(0)
    network = Sequential(
        Conv2d(1, 24, 3, padding=2, rng=rng),
        ReLU(),
        MaxPool2d(3, 1),
        Flatten(),
        Linear(24 * 64, 10, rng=rng),
    )
    optimizer = SGD(network.parameters(), 0.01, 0.9, 1e-3)
    train(
        network,
        optimizer,
        TRAINING,
        VALIDATION,
        epochs=8,
        batch_size=16,
        rng=rng,
        schedule=cosine_schedule,
    )
    assert evaluate(network, TEST)[1] >= 0.97


def test_agrees_with_a_loop_in_pytorch():
    # Five epochs in float64, momentum, decay, schedule, a last small batch.
    rng = np.random.default_rng(3)
    network = seed_network(rng, 4)
    optimizer = SGD(network.parameters(), 0.05, 0.9, 1e-3)
    data = Dataset(
        "digits",
        FEW.images.astype(np.float64),
        FEW.labels,
        FEW.class_names,
        0,
        1,
    )
    theirs = to_torch(network)
    their_optimizer = torch.optim.SGD(
        theirs.parameters(), 0.05, 0.9, weight_decay=1e-3
    )
    order_rng = np.random.default_rng()
    order_rng.bit_generator.state = rng.bit_generator.state
    losses, step = [], 0
    for _ in range(5):
        order, total = order_rng.permutation(150), 0.0
        for i in range(0, 150, 32):
            batch = order[i : i + 32]
            lr = 0.05 / 2 * (1 + math.cos(math.pi * step / 25))
            their_optimizer.param_groups[0]["lr"] = lr
            their_optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                theirs(torch.from_numpy(data.images[batch])),
                torch.from_numpy(data.labels[batch]),
            )
            loss.backward()
            their_optimizer.step()
            total += loss.item() * len(batch)
            step += 1
        losses.append(total / 150)
    history = train(
        network,
        optimizer,
        data,
        data,
        epochs=5,
        batch_size=32,
        rng=rng,
        schedule=cosine_schedule,
    )
    for theirs_p, p in zip(
        theirs.parameters(), network.parameters(), strict=True
    ):
        np.testing.assert_allclose(
            p.value, theirs_p.detach().numpy(), rtol=0, atol=1e-10
        )
    ours = [epoch.train_loss for epoch in history]
    np.testing.assert_allclose(ours, losses, rtol=0, atol=1e-10)


# --- what it measures ------------------------------------------------------


def test_evaluate_agrees_with_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss

    network, _, history = run()
    logits = predict(network, HELD_OUT.images).astype(np.float64)
    loss, accuracy = evaluate(network, HELD_OUT)
    labels = HELD_OUT.labels
    theirs = log_loss(labels, softmax(logits), labels=np.arange(10))
    assert loss == pytest.approx(theirs, rel=1e-5)
    assert accuracy == accuracy_score(labels, logits.argmax(axis=1))
    assert history[-1].validation_loss == loss
    assert history[-1].validation_accuracy == accuracy


def test_history_is_the_mean_over_images():
    # With steps of length 0 every step sees the same network; the last
    # batch, of 22 images, must not count as much as one of 32.
    network, _, history = run(lr=0.0)
    loss, accuracy = evaluate(network, FEW)
    for epoch in history:
        assert epoch.train_loss == pytest.approx(loss, rel=1e-5)
        assert epoch.train_accuracy == pytest.approx(accuracy)


def test_train_step_counts_before_the_update():
    network, optimizer, _ = start()
    loss, accuracy = evaluate(network, FEW)
    given = train_step(network, optimizer, FEW.images, FEW.labels)
    assert given == pytest.approx((loss, accuracy * len(FEW)), rel=1e-5)
    assert evaluate(network, FEW)[0] < loss


def test_the_parts_of_a_batch_add_up_to_the_batch():
    # Parts of 50, 70 and 30: the mean of their means would be another loss.
    network, optimizer, _ = start()
    network.to(np.float64)
    before = bits(network)
    found = []
    for i, j in ((0, 50), (50, 120), (120, 150)):
        part = FEW.images[i:j].astype(np.float64), FEW.labels[i:j]
        loss, correct = partial_step(network, *part, len(FEW))
        grads = [p.grad.copy() for p in network.parameters()]
        found.append((loss, correct, grads))
    assert bits(network) == before
    losses, corrects, grads = zip(*found, strict=True)
    optimizer.lr = 0.0  # so that the gradients are left as they were found
    loss, correct = train_step(network, optimizer, FEW.images, FEW.labels)
    assert sum(losses) == pytest.approx(loss, rel=1e-12)
    assert sum(corrects) == correct
    for p, *parts in zip(network.parameters(), *grads, strict=True):
        np.testing.assert_allclose(p.grad, sum(parts), rtol=0, atol=1e-12)


def test_an_epoch_sees_each_image_once_in_a_new_order():
    seen = []

    def spy(network, optimizer, images, labels):
        seen.append(images[:, 0, 0, 0].astype(int))
        return 1.0, 0

    images = np.zeros((150, 1, 8, 8), np.float32)
    images[:, 0, 0, 0] = np.arange(150)
    data = Dataset("d", images, FEW.labels, FEW.class_names, 0, 1)
    run(data=data, epochs=2, step=spy)
    assert [len(batch) for batch in seen] == 2 * [32, 32, 32, 32, 22]
    first, second = np.split(np.concatenate(seen), 2)
    for order in (first, second):
        assert sorted(order) == list(range(150))
        assert list(order) != list(range(150))
    assert list(first) != list(second)


# --- the same again --------------------------------------------------------


def test_same_seed_same_bits():
    (one, _, history), (two, _, again) = run(seed=5), run(seed=5)
    assert bits(one) == bits(two)
    assert history == again
    other, _, _ = run(seed=6)
    assert bits(other) != bits(one)


def test_schedule_sees_the_progress_and_lr_comes_back():
    seen = []

    def schedule(lr, progress):
        seen.append((lr, progress))
        return lr / 10

    _, optimizer, _ = run(epochs=2, schedule=schedule)
    assert seen == [(0.05, step / 10) for step in range(10)]
    assert optimizer.lr == 0.05


def test_without_a_schedule_lr_is_the_steps_own_affair():
    rates = []

    def halving(network, optimizer, images, labels):
        rates.append(optimizer.lr)
        optimizer.lr /= 2
        return train_step(network, optimizer, images, labels)

    _, optimizer, _ = run(epochs=1, step=halving)
    assert rates == [0.05, 0.025, 0.0125, 0.00625, 0.003125]
    assert optimizer.lr == 0.05


def test_schedule_sets_the_step():
    # A tenth of 0.05 by schedule is 0.005 without.
    scheduled, _, _ = run(schedule=lambda lr, progress: 0.005)
    plain, _, _ = run(lr=0.005)
    assert bits(scheduled) == bits(plain)


def test_lr_comes_back_after_an_interrupt():
    network, optimizer, rng = start()

    def schedule(lr, progress):
        if progress > 0.5:
            raise KeyboardInterrupt
        return lr / 10

    with pytest.raises(KeyboardInterrupt):
        train(
            network,
            optimizer,
            FEW,
            HELD_OUT,
            epochs=2,
            batch_size=32,
            rng=rng,
            schedule=schedule,
        )
    assert optimizer.lr == 0.05


# --- early stopping --------------------------------------------------------


def with_losses(*losses):
    return [EpochMetrics(0, 0, loss, 0) for loss in losses]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [((), 0), ((3,), 0), ((3, 2, 1), 0), ((1, 2, 3), 2), ((3, 1, 2, 1), 2)],
)
def test_epochs_since_best(losses, expected):
    assert epochs_since_best(with_losses(*losses)) == expected


def test_early_stopping_takes_the_best_epoch_back():
    options = {"data": FEW.subset(slice(40)), "epochs": 60, "batch_size": 10}
    _, _, whole = run(**options)
    stopped, _, history = run(patience=4, **options)
    losses = [epoch.validation_loss for epoch in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 5 < 60
    assert history == whole[: len(history)]
    assert evaluate(stopped, HELD_OUT)[0] == losses[best] < losses[-1]


def test_without_patience_the_last_epoch_stays():
    options = {"data": FEW.subset(slice(40)), "epochs": 30, "batch_size": 10}
    network, _, history = run(**options)
    losses = [epoch.validation_loss for epoch in history]
    assert evaluate(network, HELD_OUT)[0] == losses[-1] > min(losses)


# --- a loss that is not finite ---------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_is_refused_before_the_update():
    network, optimizer, _ = start(lr=0.3)
    before = bits(network)
    images = np.full((4, 1, 8, 8), np.nan, np.float32)
    with pytest.raises(ValueError, match="loss is nan; expected a finite"):
        train_step(network, optimizer, images, FEW.labels[:4])
    assert bits(network) == before
    assert not any(v.any() for v in optimizer.velocities)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_steps_that_are_too_long_are_named():
    with pytest.raises(
        ValueError, match=r"loss is .* lower lr, which is 1000"
    ):
        run(lr=1e6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_checkpoint_of_a_network_that_is_not_finite(tmp_path):
    # One step per epoch: only the validation can see what it did.
    path = tmp_path / "run.npz"
    said = r"expected a finite number.*lower lr, which is 1e\+38"
    with pytest.raises(ValueError, match=said):
        run(lr=1e38, batch_size=150, checkpoint=path)
    assert list(tmp_path.iterdir()) == []


# --- plans that cannot work ------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number"),
        ({"patience": 0}, "patience is 0; expected a whole number"),
        (
            {"data": FEW.subset(slice(0))},
            r"^train was given training of shape \(0, .*expected \(N, .*"
            "look at the index",
        ),
        (
            {"held_out": FEW.subset(slice(0))},
            r"^train was given validation of shape \(0, .*expected \(M, .*"
            "look at the index",
        ),
    ],
)
def test_a_plan_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_predict_of_no_images():
    network, _, _ = start()
    with pytest.raises(ValueError, match=r"images of shape \(0, .*expected"):
        predict(network, FEW.images[:0])


# --- checkpoints -----------------------------------------------------------


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("stop", [0.1, 0.3, 0.5, 0.9])
def test_resume_gives_the_same_bits(tmp_path, stop, patience):
    path = tmp_path / "run.npz"
    options = {"epochs": 6, "schedule": cosine_schedule, "patience": patience}
    whole, _, whole_history = run(**options)

    def interrupted(lr, progress):
        if progress > stop:
            raise KeyboardInterrupt
        return cosine_schedule(lr, progress)

    with pytest.raises(KeyboardInterrupt):
        run(**options | {"schedule": interrupted, "checkpoint": path})
    # Nothing of the first start may be needed, except before the first
    # checkpoint, where there is nothing but the start.
    weights = 99 if path.exists() else None
    assert path.exists() == (stop > 1 / 6)
    resumed, optimizer, history = run(
        weights=weights, checkpoint=path, **options
    )
    assert bits(resumed) == bits(whole)
    assert history == whole_history
    assert optimizer.lr == 0.05


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "run.npz"
    network, _, history = run(checkpoint=path)
    again, _, same = run(weights=99, checkpoint=path)
    assert bits(again) == bits(network)
    assert same == history


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import short_training as t
from cnn import cosine_schedule

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def schedule(lr, progress):
    if {where!r} == "step" and progress > 0.55:
        kill()
    if {where!r} == "save" and progress > 0.55:
        os.fsync = lambda file: kill()
    return cosine_schedule(lr, progress)

t.run(epochs=6, schedule=schedule, checkpoint={path!r})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
@pytest.mark.parametrize("where", ["step", "save"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, where):
    path = tmp_path / "run.npz"
    code = KILLED.format(
        tests=str(Path(__file__).parent), path=str(path), where=where
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    # Killed in epoch 4, in a step or while it was being saved: three are
    # on the disk, whole.
    network, optimizer, rng = start(99)
    left = Checkpoint(network, optimizer, rng)
    left.load(path)
    assert len(left.history) == 3
    options = {"epochs": 6, "schedule": cosine_schedule}
    whole, _, whole_history = run(**options)
    resumed, _, history = run(weights=99, checkpoint=path, **options)
    assert bits(resumed) == bits(whole)
    assert history == whole_history


def everything(network, optimizer, rng):
    """All that a checkpoint may change, as bits."""
    velocities = [v.tobytes() for v in optimizer.velocities]
    return bits(network), velocities, json.dumps(rng.bit_generator.state)


def refused(path, message, filters=4, parameters=None):
    """Loading raises ValueError with the message, and changes nothing."""
    network, optimizer, rng = start(99, filters=filters)
    if parameters is not None:
        optimizer = SGD(network.parameters()[parameters], 0.05, 0.9)
    before = everything(network, optimizer, rng)
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Checkpoint(network, optimizer, rng).load(path)
    assert everything(network, optimizer, rng) == before
    assert path.read_bytes() == kept


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    run(checkpoint=path)
    return path


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    refused(checkpoint, r"run\.npz .*Expected a whole \.npz.*start anew")


def test_a_checkpoint_with_a_flipped_byte(checkpoint):
    network, optimizer, rng = start()
    Checkpoint(network, optimizer, rng).load(checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[content.index(network.parameters()[2].value.tobytes())] ^= 0xFF
    checkpoint.write_bytes(bytes(content))
    refused(checkpoint, "cut short or of another kind")


def test_a_checkpoint_of_another_architecture(checkpoint):
    refused(
        checkpoint,
        r"run\.npz .*another architecture.*\(4, 1, 3, 3\).*expected "
        r".*\(5, 1, 3, 3\).*Build the network",
        filters=5,
    )


def test_a_checkpoint_of_an_optimizer_of_other_parameters(checkpoint):
    refused(
        checkpoint,
        r"it has \[\('velocities/0.bias', .*\]; expected \[\]",
        parameters=slice(2, 4),
    )


def test_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "weights.npz"
    network, _, _ = start()
    save_arrays(path, network.state_dict())
    refused(path, r"weights\.npz was saved from .*expected .*velocities/")


def test_a_refused_checkpoint_stops_the_run(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match="start anew"):
        run(checkpoint=checkpoint)


def test_a_checkpoint_brings_everything_back(tmp_path):
    path = tmp_path / "run.npz"
    network, optimizer, rng = start(1)
    train(network, optimizer, FEW, HELD_OUT, epochs=1, batch_size=32, rng=rng)
    ours = Checkpoint(network, optimizer, rng)
    ours.history = with_losses(2.0, 1.0)
    ours.best["4.bias"] += 1
    ours.save(path)
    others = start(2)
    assert everything(*others) != everything(network, optimizer, rng)
    read = Checkpoint(*others)
    read.load(path)
    assert everything(*others) == everything(network, optimizer, rng)
    assert read.history == ours.history
    assert read.best.keys() == ours.best.keys()
    for name, array in ours.best.items():
        assert np.array_equal(read.best[name], array)


def test_a_checkpoint_keeps_the_best_epoch():
    network, optimizer, rng = start()
    checkpoint = Checkpoint(network, optimizer, rng)
    for loss, best in ((3.0, 1.0), (2.0, 2.0), (5.0, 2.0), (2.0, 2.0)):
        network.parameters()[3].value[...] = len(checkpoint.history) + 1
        checkpoint.add(EpochMetrics(0, 0, loss, 0))
        assert (checkpoint.best["4.bias"] == best).all()


class Adaptive(SGD):
    """Keeps more than velocities: squares, and a count of its steps."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr, 0.9)
        self.squares = [np.zeros_like(p.value) for p in parameters]
        self.counts = [np.zeros((), int) for _ in parameters]

    def step(self):
        for p, square, count in zip(
            self.parameters, self.squares, self.counts, strict=True
        ):
            count += 1
            square += p.grad**2
            p.grad = p.grad / np.sqrt(square / count + 1e-6)
        super().step()


def test_a_checkpoint_holds_all_that_an_optimizer_keeps(tmp_path):
    results = []
    for stops in ([4], [2, 4]):
        path = tmp_path / f"{len(stops)}.npz"
        for epochs in stops:
            network, _, rng = start(7)
            # Not the network's parameters all, and not in their order.
            chosen = [network.parameters()[place] for place in (3, 2, 0)]
            optimizer = Adaptive(chosen, 0.01)
            options = {"epochs": epochs, "batch_size": 32, "rng": rng}
            train(
                network,
                optimizer,
                FEW,
                HELD_OUT,
                checkpoint=path,
                **options,
            )
        results.append(everything(network, optimizer, rng))
    assert results[0] == results[1]


def test_a_snapshot_does_not_move():
    network, optimizer, _ = start()
    kept = network.state_dict()
    train_step(network, optimizer, FEW.images, FEW.labels)
    for name, value in network.state_dict().items():
        assert not np.array_equal(kept[name], value)


# --- the progress bar ------------------------------------------------------


def test_silent_where_there_is_no_terminal(capfd):
    run()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pty")
def test_a_bar_on_the_error_stream_of_a_terminal():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import short_training as t; t.run()"
    )
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=end,
        check=False,
    )
    os.close(end)
    shown = ""
    with contextlib.suppress(OSError):  # at the end, on Linux
        while piece := os.read(terminal, 4096).decode():
            shown += piece
    os.close(terminal)
    assert done.returncode == 0, shown
    assert done.stdout == b""
    assert "15/15" in shown
    assert "validation: " in shown


@pytest.mark.parametrize("stream", BROKEN_STREAMS)
def test_no_bar_ends_a_training(monkeypatch, stream):
    expected, _, history = run(epochs=1)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # no thread
    monkeypatch.setattr(sys, "stderr", BROKEN_STREAMS[stream]())
    network, _, same = run(epochs=1)
    assert same == history
    for name, value in expected.state_dict().items():
        assert np.array_equal(value, network.state_dict()[name])


@pytest.mark.parametrize("broken", ["__init__", "update", "set_postfix_str"])
def test_no_fault_of_tqdm_ends_a_training(monkeypatch, broken):
    def fail(self, *given, **options):
        raise RuntimeError("no such bar")

    monkeypatch.setattr(f"tqdm.tqdm.{broken}", fail)
    monkeypatch.setattr("tqdm.tqdm.__del__", lambda self: None)
    _, _, history = run(epochs=1)
    assert len(history) == 1


def test_the_bar_of_an_interrupted_run_ends_its_line(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(step=interrupted)
    assert caught.tb  # which keeps the bar: it does not end by itself
    assert terminal.getvalue().endswith("\n")


def test_a_training_does_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert len(run(epochs=1)[2]) == 1


def test_the_bar_of_a_resumed_run_starts_where_it_was(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    run(epochs=2, checkpoint=path)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    run(epochs=3, checkpoint=path)
    shown = terminal.getvalue()
    assert "10/15" in shown
    assert "15/15" in shown
