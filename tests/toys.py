"""Small networks that many tests share, and their twins in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential


if TYPE_CHECKING:
    import torch


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


def two_matrices(seed: int = 0) -> Sequential:
    """(N, 3) -> (N, 2), in float32, where no image is needed."""
    rng = np.random.default_rng(seed)
    return Sequential(Linear(3, 4, rng=rng), ReLU(), Linear(4, 2, rng=rng))


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
        case _:
            return {ReLU: nn.ReLU, Flatten: nn.Flatten}[type(layer)]()
    twin.weight.data = torch.tensor(layer.weight.value)
    twin.bias.data = torch.tensor(layer.bias.value)
    return twin
