"""Small networks that many tests share, and their twins in PyTorch.

Also the layers of which other processes get copies: each imports the file
that defines them, and that should not cost it PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from cnn import (
    SGD,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from cnn.back.files import read_digits
from cnn.data import split
from cnn.layer import Buffer


if TYPE_CHECKING:
    import torch


def digits() -> tuple[Dataset, Dataset, Dataset]:
    """What load_dataset("digits") gives, scaled here.

    So a reader can test the other chapters before the one on data.
    """
    (pixels, labels), test = read_digits()
    train, validation = split(len(pixels), 180)
    mean, std = float(pixels[train].mean()), float(pixels[train].std())

    def dataset(pixels: np.ndarray, labels: np.ndarray) -> Dataset:
        images = ((pixels[:, np.newaxis] - mean) / std).astype(np.float32)
        names = tuple("0123456789")
        return Dataset("digits", images, labels, names, mean, std)

    known = dataset(pixels, labels)
    return known.subset(train), known.subset(validation), dataset(*test)


def seed_network(
    seed: int | np.random.Generator = 0,
    filters: int = 3,
    dtype: type = np.float64,
) -> Sequential:
    """The book's network, for the digits: (N, 1, 8, 8) -> (N, 10)."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2d(1, filters, 3, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(filters * 9, 10, rng=rng),
    ).to(dtype)


def two_convolutions(seed: int = 0) -> Sequential:
    """(N, 2, 9, 9) -> (N, 5), in float64.

    Each layer's dL/dx matters; stride, padding, overlapping windows.
    """
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2d(2, 3, 3, padding=1, rng=rng),  # (9, 9) -> (9, 9)
        ReLU(),
        Conv2d(3, 4, 3, stride=2, rng=rng),  # -> (4, 4)
        ReLU(),
        MaxPool2d(3, stride=1),  # -> (2, 2)
        Flatten(),
        Linear(16, 5, rng=rng),
    ).to(np.float64)


def two_poolings(seed: int = 0) -> Sequential:
    """(N, 1, 12, 12) -> (N, 5): two convolutions, each pooled its own way."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2d(1, 3, 3, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Conv2d(3, 4, 2, rng=rng),
        ReLU(),
        MaxPool2d(3, 1),
        Flatten(),
        Linear(4 * 2 * 2, 5, rng=rng),
    ).to(np.float64)


def one_of_each() -> Sequential:
    """(N, 2, 6, 6) -> (N, 3), in float32: each layer once."""
    rng = np.random.default_rng(0)
    return Sequential(
        Conv2d(2, 3, 3, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(12, 3, rng=rng),
    )


def normalised_convolutions(seed: int = 0) -> Sequential:
    """(N, 2, 6, 6) -> (N, 3), in float64: two convolutions, normalised."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2d(2, 4, 3, rng=rng),
        BatchNorm2d(4),
        ReLU(),
        Conv2d(4, 3, 3, rng=rng),  # -> (2, 2)
        BatchNorm2d(3),
        ReLU(),
        Flatten(),
        Linear(12, 3, rng=rng),
    ).to(np.float64)


def residual_network(seed: int = 0) -> Sequential:
    """(N, 2, 6, 6) -> (N, 3), in float64: two blocks, each normalised."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2d(2, 4, 3, padding=1, rng=rng),
        Residual(
            BatchNorm2d(4),
            ReLU(),
            Conv2d(4, 4, 3, padding=1, rng=rng),
        ),
        AvgPool2d(3, 1, 1),
        Residual(
            BatchNorm2d(4),
            ReLU(),
            Conv2d(4, 5, 3, 2, 1, rng=rng),  # -> (3, 3)
            BatchNorm2d(5),
            ReLU(),
            Conv2d(5, 5, 1, rng=rng),
            shortcut=Conv2d(4, 5, 1, 2, rng=rng),
        ),
        GlobalAvgPool2d(),
        Flatten(),
        Linear(5, 3, rng=rng),
    ).to(np.float64)


def two_matrices(seed: int = 0) -> Sequential:
    """(N, 3) -> (N, 2), in float32, where no image is needed."""
    rng = np.random.default_rng(seed)
    return Sequential(Linear(3, 4, rng=rng), ReLU(), Linear(4, 2, rng=rng))


class Mean(Layer):
    """The mean of each map: (N, C, H, W) -> (N, C), and a word about it."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x.mean(axis=(2, 3))
        self.save_for_backward(y, x.shape)
        print("a mean")
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, shape = self.saved(grad_output)
        grad = grad_output[:, :, np.newaxis, np.newaxis] * np.ones(shape)
        return grad / (shape[2] * shape[3])


class Zigzag(Layer):
    """Kinks on both sides of 0, nearer than a step of the check."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = np.abs(x - 1e-6) + 0.7 * np.abs(x + 2e-6) + 5 * x
        self.save_for_backward(y, x)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_output, x = self.saved(grad_output)
        slope = np.sign(x - 1e-6) + 0.7 * np.sign(x + 2e-6) + 5
        grad: np.ndarray = slope * grad_output
        return grad


class Centre(Layer):
    """x minus a mean: of the batch to train, else the sum of such means."""

    def __init__(self, side: int, in_place: bool) -> None:
        self.mean = Buffer(np.zeros((1, side, side)))
        self.in_place = in_place

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not self.training:
            return x - self.mean.value
        mean = x.mean(axis=0)
        if self.in_place:
            self.mean.value += mean
        else:
            self.mean.value = self.mean.value + mean
        return x - mean

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return grad_output


class Trap(Layer):
    """Kills the process that finds its file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def forward(self, x: np.ndarray) -> np.ndarray:
        try:
            self.file.unlink()
        except FileNotFoundError:
            return x
        psutil.Process().kill()
        raise AssertionError("it goes on")

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return grad_output


def to_torch(layer: Layer) -> torch.nn.Module:
    """The same layer, or network, in PyTorch, with the same weights.

    They are copies, in the dtype that ours have.
    """
    # Imported here: children that only train a little need not wait for it.
    import torch
    from torch import nn

    twin: nn.Module
    match layer:
        case Sequential():
            return nn.Sequential(*map(to_torch, layer.layers))
        case Conv2d():
            f, c, *kernel = layer.weight.value.shape
            twin = nn.Conv2d(c, f, kernel, layer.stride, layer.padding)
        case Linear():
            m, d = layer.weight.value.shape
            twin = nn.Linear(d, m)
        case MaxPool2d():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)
        case AvgPool2d():
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        case GlobalAvgPool2d():
            return nn.AdaptiveAvgPool2d(1)
        case Residual():
            twin, past = nn.Module(), layer.shortcut
            twin.body = to_torch(layer.body)
            twin.shortcut = to_torch(past) if past else nn.Identity()
            twin.forward = lambda x: twin.shortcut(x) + twin.body(x)
            return twin
        case Dropout():
            return nn.Dropout(layer.p).train(layer.training)
        case BatchNorm2d():
            c = len(layer.weight.value)
            twin = nn.BatchNorm2d(c, layer.eps, layer.momentum)
            for name in ("running_mean", "running_var"):
                value = layer.named_arrays()[name].value
                setattr(twin, name, torch.tensor(value))
            twin.train(layer.training)
        case _:
            return {ReLU: nn.ReLU, Flatten: nn.Flatten}[type(layer)]()
    twin.weight.data = torch.tensor(layer.weight.value)
    twin.bias.data = torch.tensor(layer.bias.value)
    return twin


def steps_beside_torch(
    mine: Sequential,
    theirs: torch.nn.Module,
    shape: tuple[int, ...],
    classes: int,
    optimizers: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    within: float = 1e-10,
) -> None:
    """Fifty steps of both, and equal losses.

    optimizers: ours and PyTorch's; by default momentum and weight decay.
    """
    import torch

    how = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}
    optimizer = SGD(mine.parameters(), **how)
    optimizer_torch = torch.optim.SGD(theirs.parameters(), **how)
    if optimizers:
        optimizer = optimizers[0](mine.parameters())
        optimizer_torch = optimizers[1](theirs.parameters())
    rng, criterion = np.random.default_rng(4), CrossEntropyLoss()
    for _ in range(50):
        x = rng.standard_normal(shape)
        labels = rng.integers(classes, size=len(x))
        loss = criterion.forward(mine.forward(x), labels)
        mine.backward_parameters(criterion.backward())
        optimizer.step()

        loss_torch = torch.nn.functional.cross_entropy(
            theirs(torch.from_numpy(x)), torch.from_numpy(labels)
        )
        optimizer_torch.zero_grad()
        loss_torch.backward()
        optimizer_torch.step()
        assert abs(loss - loss_torch.item()) < within
