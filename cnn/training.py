# Written by book/training/training.md. To keep edits: tangle.py --back.
"""The training loop: epochs, history, checkpoints, early stopping."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn.data import Dataset, minibatches
from cnn.layer import Layer
from cnn.loss import CrossEntropyLoss, cross_entropy
from cnn.network import load_arrays, save_arrays
from cnn.optimizer import SGD


def check_finite(loss: float, lr: float) -> None:
    """ValueError, with the way out, unless a loss is a finite number."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss}; expected a finite number. The steps were "
            f"too long or the images are not scaled: lower lr, which is {lr}, "
            "or scale them. A checkpoint holds the last whole epoch."
        )


def partial_step(
    network: Layer, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tuple[float, int]:
    """Forward, loss and backward on a part of a batch; updates nothing.

    network: its parameters' grad becomes what this part adds to the batch's.
    images: (P, C, H, W), the part; labels: (P,), of 0..K-1.
    batch_size: B, the images of the whole batch; each counts 1 / B.
    Returns what the part adds to the batch's mean loss, in nats, and how
    many of its images are classified correctly.
    """
    criterion = CrossEntropyLoss()
    share = len(labels) / batch_size
    logits = network.forward(images)
    loss = share * criterion.forward(logits, labels)
    network.backward_parameters(share * criterion.backward())
    return loss, int((logits.argmax(axis=1) == labels).sum())


def train_step(
    network: Layer, optimizer: SGD, images: np.ndarray, labels: np.ndarray
) -> tuple[float, int]:
    """Forward, loss, backward, update: one step on one batch.

    network, optimizer: are changed; the optimizer holds the parameters.
    images: (N, C, H, W); labels: (N,), of 0..K-1.
    Returns the mean loss, in nats, and how many images were classified
    correctly, both before the update.
    ValueError, before anything is updated, if the loss is not finite.
    """
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
    before_step: Callable[[int], None],
    step: Step = train_step,
) -> tuple[float, float]:
    """One pass over the data; returns its mean loss and accuracy.

    before_step: called with the number of each step, from 0.
    """
    loss_sum, correct = 0.0, 0
    batches = minibatches(dataset, batch_size, rng)
    for number, (images, labels) in enumerate(batches):
        before_step(number)
        loss, step_correct = step(network, optimizer, images, labels)
        loss_sum += loss * len(labels)
        correct += step_correct
    return loss_sum / len(dataset), correct / len(dataset)


@contextmanager
def evaluating(network: Layer) -> Iterator[None]:
    """Within the block all layers of network evaluate; then, as before."""
    before = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, training in before:
            layer.training = training


def check_positive(**counts: float) -> None:
    """ValueError if any of the numbers that a run needs is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(
                f"{name} is {count}; expected at least 1. Give more, or "
                "check the index that selected the images."
            )


def predict(network: Layer, images: np.ndarray) -> np.ndarray:
    """Logits of all images, (N, K), computed 500 images at a time.

    images: (N, C, H, W); ValueError if there are none.
    """
    check_positive(images=len(images))
    batches = (images[i : i + 500] for i in range(0, len(images), 500))
    with evaluating(network):
        return np.concatenate([network.forward(batch) for batch in batches])


def evaluate(network: Layer, dataset: Dataset) -> tuple[float, float]:
    """Mean loss (nats) and accuracy (0..1) of a network on a data set."""
    logits = predict(network, dataset.images)
    correct = logits.argmax(axis=1) == dataset.labels
    return cross_entropy(logits, dataset.labels), float(correct.mean())


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch achieved; losses in nats, accuracies from 0 to 1.

    The training figures are means over the epoch's steps, taken while the
    weights were changing; the validation figures are of its last weights.
    """

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


def named_velocities(network: Layer, optimizer: SGD) -> dict[str, np.ndarray]:
    """The optimizer's velocities by their parameters' names in network."""
    names = {id(p): name for name, p in network.named_parameters().items()}
    pairs = zip(optimizer.parameters, optimizer.velocities, strict=True)
    return {names[id(p)]: velocity for p, velocity in pairs}


def save_checkpoint(
    path: str | Path,
    network: Layer,
    optimizer: SGD,
    rng: np.random.Generator,
    history: list[EpochMetrics],
    best: dict[str, np.ndarray],
) -> None:
    """Write all that the next epoch depends on to one file, atomically.

    best: the parameters of the best epoch so far, as state_dict gives them.
    """
    state = {
        "history": [asdict(epoch) for epoch in history],
        "rng": rng.bit_generator.state,
    }
    arrays = {"state/json": np.array(json.dumps(state))}
    groups = {
        "value": network.state_dict(),
        "velocity": named_velocities(network, optimizer),
        "best": best,
    }
    for group, named in groups.items():
        arrays |= {f"{group}/{name}": array for name, array in named.items()}
    save_arrays(path, arrays)


def load_checkpoint(
    path: str | Path,
    network: Layer,
    optimizer: SGD,
    rng: np.random.Generator,
) -> tuple[list[EpochMetrics], dict[str, np.ndarray]]:
    """Bring network, optimizer and rng back; returns history and best.

    ValueError if the file is damaged, no checkpoint or of another
    architecture; then nothing is changed.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, array in load_arrays(path).items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = array
    if set(groups) != {"state", "value", "velocity", "best"}:
        raise ValueError(
            f"{path} holds {sorted(groups)}; expected a checkpoint of "
            "cnn.train. Name another file, or delete this one to start anew."
        )
    velocities = named_velocities(network, optimizer)
    if groups["velocity"].keys() != velocities.keys():
        raise ValueError(
            f"{path} has velocities of {list(groups['velocity'])}; expected "
            f"{list(velocities)}. Build the network and optimizer that were "
            "saved."
        )
    network.load_state_dict(groups["value"], path)
    for name, velocity in velocities.items():
        velocity[...] = groups["velocity"][name]
    state = json.loads(str(groups["state"]["json"]))
    rng.bit_generator.state = state["rng"]
    history = [EpochMetrics(**epoch) for epoch in state["history"]]
    return history, groups["best"]


def epochs_since_best(history: list[EpochMetrics]) -> int:
    """How many epochs ago the validation loss was lowest."""
    losses = [epoch.validation_loss for epoch in history]
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


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

    schedule: lr of each step, from the optimizer's lr and the progress
        0..1 through all epochs (cosine_schedule); None keeps lr.
    patience: stop early after so many epochs without a lower validation
        loss, and take the best epoch's parameters back.
    checkpoint: a file, written after each epoch; if it is there already,
        training goes on from it and, with the same arguments, ends with
        the same bits.
    step: does what train_step does, and is called as it is.
    ValueError if the loss is not finite, the checkpoint does not fit, or
    epochs, batch_size, patience or a data set is below 1.
    """
    from tqdm import tqdm

    limit = math.inf if patience is None else patience
    check_positive(epochs=epochs, batch_size=batch_size, patience=limit)
    check_positive(training=len(training), validation=len(validation))
    history: list[EpochMetrics] = []
    best = network.state_dict()
    if checkpoint is not None and Path(checkpoint).exists():
        history, best = load_checkpoint(checkpoint, network, optimizer, rng)
    lr, steps = optimizer.lr, math.ceil(len(training) / batch_size)

    def before_step(number: int) -> None:
        done = len(history) * steps + number
        if schedule is not None:
            optimizer.lr = schedule(lr, done / (epochs * steps))
        bar.update()

    # A bar in a terminal; none where the output is a file or a page.
    bar: Any = tqdm(
        total=epochs * steps, initial=len(history) * steps, disable=None
    )
    try:
        while len(history) < epochs and epochs_since_best(history) < limit:
            achieved = train_epoch(
                network,
                optimizer,
                training,
                batch_size,
                rng,
                before_step,
                step,
            )
            loss, accuracy = evaluate(network, validation)
            check_finite(loss, optimizer.lr)
            history.append(EpochMetrics(*achieved, loss, accuracy))
            if epochs_since_best(history) == 0:
                best = network.state_dict()
            bar.set_postfix_str(f"validation: {loss:.3f}, {accuracy:.2%}")
            if checkpoint is not None:
                save_checkpoint(
                    checkpoint, network, optimizer, rng, history, best
                )
    finally:
        bar.close()
        optimizer.lr = lr
    if patience is not None:
        network.load_state_dict(best, "the best epoch")
    return history
