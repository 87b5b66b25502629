# Written by book/training/training.md. To keep edits: tangle.py --back.
"""The training loop: epochs, history, checkpoints, early stopping."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cnn.data import (
    Dataset,
    check_arrays,
    check_generator,
    check_positive,
    minibatches,
)
from cnn.layer import Layer, copy_arrays
from cnn.loss import CrossEntropyLoss, cross_entropy
from cnn.metrics import EpochMetrics
from cnn.network import check_run, describe_run, load_arrays, save_arrays
from cnn.optimizer import SGD


def check_finite(loss: float, lr: float) -> None:
    """ValueError, which tells loss and lr, unless loss is finite."""
    if not np.isfinite(loss):
        raise ValueError(
            f"the loss is {loss}; expected a finite number. Scale the images, "
            f"or lower lr, which is {lr}. A checkpoint has the last epoch."
        )


def partial_step(
    network: Layer, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tuple[float, int]:
    """Forward, loss and backward on a part of a batch; updates nothing.

    network: each parameter's grad becomes the part's share of the batch's.
    images: (P, C, H, W); labels: (P,), of 0..K-1; batch_size: of the whole.
    Returns the part's share of the mean loss, and its correct answers.
    Equation: eq-training-part.
    """
    criterion, logits = CrossEntropyLoss(), network.forward(images)
    share = len(logits) / batch_size
    loss = share * criterion.forward(logits, labels)
    network.backward_parameters(share * criterion.backward())
    return loss, int((logits.argmax(axis=1) == labels).sum())


def train_step(
    network: Layer, optimizer: SGD, images: np.ndarray, labels: np.ndarray
) -> tuple[float, int]:
    """Forward, loss, backward, update: one step on one batch.

    network, optimizer: are changed; the optimizer holds the parameters.
    images: (N, C, H, W); labels: (N,), of 0..K-1.
    Returns mean loss (nats) and correct answers, both before the update.
    ValueError, no update: loss not finite, or not this network's optimizer.
    """
    if optimizer.network is not network:  # asked once, not in each step
        optimizer.check_network(network)
    (images,) = check_arrays("train_step", "images (N, ...)", images)
    loss, correct = partial_step(network, images, labels, len(images))
    check_finite(loss, optimizer.lr)
    optimizer.step()
    return loss, correct


Step = Callable[[Layer, SGD, np.ndarray, np.ndarray], tuple[float, int]]


def train_epoch(
    network: Layer,
    optimizer: SGD,
    dataset: Dataset,
    batch_size: int,
    rng: np.random.Generator,
    step: Step = train_step,
) -> tuple[float, float]:
    """One pass over the data; returns its mean loss and accuracy.

    network, optimizer: are changed, by step, which does as train_step does.
    dataset, batch_size, rng: the images, in batches whose order rng draws.
    Equation: eq-training-mean.
    """
    optimizer.check_network(network)
    loss_sum, correct = 0.0, 0
    for images, labels in minibatches(dataset, batch_size, rng):
        loss, step_correct = step(network, optimizer, images, labels)
        loss_sum += loss * len(labels)
        correct += step_correct
    return loss_sum / len(dataset), correct / len(dataset)


def predict(network: Layer, images: np.ndarray) -> np.ndarray:
    """Logits (N, K) of images (N, C, H, W), by network in evaluation."""
    (images,) = check_arrays("predict", "images (N, ...)", images)
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        pieces = (images[i : i + 500] for i in range(0, len(images), 500))
        return np.concatenate([network.forward(piece) for piece in pieces])
    finally:
        for layer, training in modes:
            layer.training = training


def evaluate(network: Layer, dataset: Dataset) -> tuple[float, float]:
    """Mean loss (nats) and accuracy (0..1) of network on dataset."""
    logits = predict(network, dataset.images)
    correct = logits.argmax(axis=1) == dataset.labels
    return cross_entropy(logits, dataset.labels), float(correct.mean())


class Checkpoint:
    """All of network, optimizer and rng that the next epoch depends on."""

    def __init__(
        self, network: Layer, optimizer: SGD, rng: np.random.Generator
    ) -> None:
        check_generator(rng)
        optimizer.check_network(network)
        self.network, self.optimizer, self.rng = network, optimizer, rng
        self.made_of: dict[str, Any] = {}  # what tells this run from others
        self.history: list[EpochMetrics] = []
        self.best = network.state_dict()  # after the best epoch

    def add(self, epoch: EpochMetrics) -> None:
        """Append an epoch's metrics; keep the state if it is the best."""
        self.history.append(epoch)
        if epochs_since_best(self.history) == 0:
            self.best = self.network.state_dict()

    def held(self) -> dict[str, np.ndarray]:
        """All arrays by kind and name: themselves, not copies."""
        held = self.network.named_arrays().items()
        kinds = {"value": {n: a.value for n, a in held}, "best": self.best}
        names = {p: n for n, p in self.network.named_parameters().items()}
        owners = [names[p] for p in self.optimizer.parameters]
        for kind, arrays in vars(self.optimizer).items():
            if isinstance(arrays, list) and kind != "parameters":
                kinds[kind] = dict(zip(owners, arrays, strict=True))
        return {f"{k}/{n}": a for k in kinds for n, a in kinds[k].items()}

    def save(self, path: str | Path) -> None:
        """Write it to path, where the old file or the new one is whole."""
        state: dict[str, Any] = {"history": [*map(vars, self.history)]}
        state |= {"rng": self.rng.bit_generator.state, "made_of": self.made_of}
        save_arrays(path, self.held() | {"state": np.array(json.dumps(state))})

    def load(self, path: str | Path) -> None:
        """Bring back what path holds; ValueError, and no change, if unfit."""
        given = load_arrays(path)
        state = json.loads(str(given.pop("state", "{}")))
        copy_arrays(given, self.held(), path)
        self.made_of = state.get("made_of", {})
        self.rng.bit_generator.state = state["rng"]
        self.history = [EpochMetrics(**epoch) for epoch in state["history"]]


def epochs_since_best(history: list[EpochMetrics]) -> int:
    """How many epochs ago history has its lowest validation loss."""
    losses = [epoch.validation_loss for epoch in history]
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


class ProgressBar:
    """tqdm's bar, with its options: whatever fails in it is left out."""

    def __init__(self, **options: Any) -> None:
        with suppress(Exception):
            from tqdm import tqdm

            self.bar = tqdm(disable=None, **options)

    def show(self, change: str, *what: Any) -> None:
        """Call what tqdm names change: update, set_postfix_str or close."""
        with suppress(Exception):
            getattr(self.bar, change)(*what)


def train(
    network: Layer,
    optimizer: SGD,
    training: Dataset,
    validation: Dataset,
    *,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
    schedule: Callable[[float, float], float] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    step: Step = train_step,
) -> list[EpochMetrics]:
    """Train a network by minibatch gradient descent; returns its history.

    network, optimizer: are changed; the optimizer holds the parameters.
    training, validation: to learn from, and to judge each epoch by.
    epochs, batch_size, rng: passes, images a step, what draws their order.
    schedule: lr of a step, from the first lr and the progress 0..1.
    patience: stop after so many epochs without a lower validation loss,
        and take the best epoch's state back.
    checkpoint: a file, written each epoch; if there, go on from this run's.
    step: does what train_step does, and is called as it is.
    ValueError if something is below 1, not finite, or does not fit.
    """
    limit = epochs if patience is None else patience  # epochs: never reached
    check_positive(epochs=epochs, batch_size=batch_size, patience=limit)
    contract = "training (N, ...), validation (M, ...)"
    check_arrays("train", contract, training.images, validation.images)
    lr, run = optimizer.lr, Checkpoint(network, optimizer, rng)
    rate = partial(schedule or (lambda lr, _: lr), lr)
    if checkpoint is not None:
        run.made_of = describe_run(run, batch_size, training, validation)
        if Path(checkpoint).exists():
            check_run(checkpoint, run.made_of, rate)
            run.load(checkpoint)
    history, steps = run.history, -(-len(training) // batch_size)
    done, total = len(history) * steps, epochs * steps
    bar = ProgressBar(total=total, initial=done)
    progress, lrs = (n / total for n in range(done, total)), list[float]()

    def scheduled_step(*batch: Any) -> tuple[float, int]:
        bar.show("update")
        lrs.append(rate(next(progress)))
        optimizer.lr = lrs[-1] if schedule else optimizer.lr
        return step(*batch)

    try:
        while len(history) < epochs and epochs_since_best(history) < limit:
            achieved = train_epoch(
                network, optimizer, training, batch_size, rng, scheduled_step
            )
            loss, accuracy = evaluate(network, validation)
            check_finite(loss, optimizer.lr)
            run.add(EpochMetrics(*achieved, loss, accuracy))
            reached = f"validation: {loss:.3f}, {accuracy:.2%}"
            bar.show("set_postfix_str", reached)
            if checkpoint is not None:
                ends = [len(history) * steps, total]
                run.made_of["mean lr"].append([*ends, fmean(lrs[-steps:])])
                run.save(checkpoint)
    finally:
        bar.show("close")
        optimizer.lr = lr
    if patience is not None:
        network.load_state_dict(run.best, "the best epoch")
    return history
