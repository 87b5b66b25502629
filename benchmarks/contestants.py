"""The same networks in cnn, PyTorch, JAX and plain NumPy, side by side.

Each maker takes a network's plan, weights to start from, a batch and the
number of threads, and gives two functions: train() makes one step and
returns the loss before it; infer() returns the logits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

import cnn
from benchmarks import plain
from cnn.beyond import fast


LR = 0.01

# A layer: its kind and sizes.
Plan = Sequence[tuple[Any, ...]]


class Contestant(NamedTuple):
    """What is timed."""

    train: Callable[[], float]
    infer: Callable[[], Any]
    others: Sequence[int] = ()  # process ids that work for it


class Task(NamedTuple):
    """What all contestants are given."""

    plan: Plan
    weights: list[np.ndarray]
    images: np.ndarray
    labels: np.ndarray
    threads: int
    microbatch_size: int


def build(plan: Plan, rng: np.random.Generator) -> cnn.Sequential:
    """A plan as a network of ours."""
    kinds: dict[str, Callable[..., cnn.Layer]] = {
        "conv": lambda *sizes: cnn.Conv2d(*sizes, rng=rng),
        "relu": cnn.ReLU,
        "pool": cnn.MaxPool2d,
        "flatten": cnn.Flatten,
        "linear": lambda *sizes: cnn.Linear(*sizes, rng=rng),
    }
    return cnn.Sequential(*(kinds[kind](*sizes) for kind, *sizes in plan))


def set_weights(network: Any, weights: list[np.ndarray]) -> None:
    """Give a network of ours, or a plain one, its weights."""
    for parameter, weight in zip(network.parameters(), weights, strict=True):
        parameter.value[...] = weight


@contextmanager
def ours(task: Task) -> Iterator[Contestant]:
    """cnn with as many workers as there are threads."""
    cnn.keep_freed_memory()
    network = build(task.plan, np.random.default_rng(0))
    set_weights(network, task.weights)
    sgd = cnn.SGD(network.parameters(), LR)
    x, labels = task.images, task.labels
    with cnn.ParallelStep(
        network, workers=task.threads, microbatch_size=task.microbatch_size
    ) as step:
        step.start(x, labels)
        fused = fast.fuse_layers(network).eval()
        yield Contestant(
            lambda: step(network, sgd, x, labels)[0],
            lambda: fast.predict(fused, x, task.threads),
            [process.pid for process in step.processes],
        )


@contextmanager
def ours_simply(task: Task) -> Iterator[Contestant]:
    """cnn.train_step, which leaves the threads to BLAS."""
    cnn.keep_freed_memory()
    network = build(task.plan, np.random.default_rng(0))
    set_weights(network, task.weights)
    sgd = cnn.SGD(network.parameters(), LR)
    x, labels = task.images, task.labels
    yield Contestant(
        lambda: cnn.train_step(network, sgd, x, labels)[0],
        lambda: cnn.predict(network, x),
    )


@contextmanager
def plain_numpy(task: Task) -> Iterator[Contestant]:
    """The usual NumPy: batch first, k*k copies, one product."""
    network = plain.Network(task.plan)
    set_weights(network, task.weights)
    x, labels = task.images, task.labels
    yield Contestant(
        lambda: network.train_step(x, labels, LR), lambda: network.forward(x)
    )


@contextmanager
def pytorch(task: Task, compiled: bool = False) -> Iterator[Contestant]:
    """PyTorch as it comes: eager; or compiled."""
    import torch
    from torch import nn

    torch.set_num_threads(task.threads)
    kinds: dict[str, Any] = {
        "conv": nn.Conv2d,
        "relu": nn.ReLU,
        "pool": nn.MaxPool2d,
        "flatten": nn.Flatten,
        "linear": nn.Linear,
    }
    network = nn.Sequential(*(kinds[k](*sizes) for k, *sizes in task.plan))
    for p, weight in zip(network.parameters(), task.weights, strict=True):
        p.data = torch.from_numpy(weight.copy())
    optimizer = torch.optim.SGD(network.parameters(), LR)
    x, y = torch.from_numpy(task.images), torch.from_numpy(task.labels)
    forward: Any = torch.compile(network) if compiled else network

    def train() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def infer() -> Any:
        with torch.inference_mode():
            return forward(x)

    yield Contestant(train, infer)


def pytorch_kept(task: Task) -> Any:
    """PyTorch, eager, told to keep its freed memory as cnn's programs do."""
    cnn.keep_freed_memory()
    return pytorch(task)


def pytorch_compiled(task: Task) -> Any:
    """PyTorch with torch.compile."""
    return pytorch(task, compiled=True)


@contextmanager
def jax_jit(task: Task) -> Iterator[Contestant]:
    """JAX, the whole step compiled by jit; XLA chooses its threads."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    def forward(weights: Any, x: Any) -> Any:
        left = iter(weights)
        for kind, *sizes in task.plan:
            if kind == "conv":
                x = lax.conv_general_dilated(x, next(left), (1, 1), "VALID")
                x = x + next(left)[:, None, None]
            elif kind == "relu":
                x = jnp.maximum(x, 0)
            elif kind == "pool":
                pool, stride = sizes
                x = lax.reduce_window(
                    x,
                    -jnp.inf,
                    lax.max,
                    (1, 1, pool, pool),
                    (1, 1, stride, stride),
                    "VALID",
                )
            elif kind == "flatten":
                x = x.reshape(len(x), -1)
            else:
                x = x @ next(left).T + next(left)
        return x

    def mean_loss(weights: Any, x: Any, labels: Any) -> Any:
        log_p = jax.nn.log_softmax(forward(weights, x))
        return -log_p[jnp.arange(len(labels)), labels].mean()

    def one_step(weights: Any, x: Any, labels: Any) -> Any:
        loss, grads = jax.value_and_grad(mean_loss)(weights, x, labels)
        return loss, [w - LR * g for w, g in zip(weights, grads, strict=True)]

    weights = [jnp.asarray(weight) for weight in task.weights]
    x, labels = jnp.asarray(task.images), jnp.asarray(task.labels)
    step: Any = jax.jit(one_step)
    predict: Any = jax.jit(forward)

    def train() -> float:
        nonlocal weights
        loss, weights = step(weights, x, labels)
        jax.block_until_ready(weights)
        return float(loss)

    yield Contestant(train, lambda: jax.block_until_ready(predict(weights, x)))


CONTESTANTS: dict[str, Callable[[Task], Any]] = {
    "cnn": ours,
    "cnn.train_step": ours_simply,
    "PyTorch": pytorch,
    "PyTorch kept": pytorch_kept,
    "PyTorch compiled": pytorch_compiled,
    "JAX jit": jax_jit,
    "plain NumPy": plain_numpy,
}
