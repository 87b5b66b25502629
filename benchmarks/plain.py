"""The usual network in NumPy, as a yardstick: batch first, im2col, argmax.

Not slow on purpose: no loop over images or windows, one product a layer.
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnn.loss import cross_entropy, cross_entropy_backward


class Parameter:
    """A weight with its gradient."""

    def __init__(self, *shape: int) -> None:
        self.value = np.zeros(shape, np.float32)
        self.grad = self.value


class Conv:
    """Windows (N*H'*W', C*k*k) times weights."""

    def __init__(self, channels: int, filters: int, k: int) -> None:
        self.weight = Parameter(filters, channels, k, k)
        self.bias = Parameter(filters)

    def forward(self, x: np.ndarray) -> np.ndarray:
        w = self.weight.value
        self.shape, k = x.shape, w.shape[2]
        windows = sliding_window_view(x, (k, k), axis=(2, 3))
        self.size = n, _, rows, cols = (len(x), 0, *windows.shape[2:4])
        windows = windows.transpose(0, 2, 3, 1, 4, 5)
        self.columns = windows.reshape(n * rows * cols, -1)
        y = self.columns @ w.reshape(len(w), -1).T + self.bias.value
        return y.reshape(n, rows, cols, -1).transpose(0, 3, 1, 2)

    def backward(self, grad: np.ndarray, first: bool) -> np.ndarray:
        w = self.weight.value
        k, (n, _, rows, cols) = w.shape[2], self.size
        grad = grad.transpose(0, 2, 3, 1).reshape(-1, len(w))
        self.weight.grad = (grad.T @ self.columns).reshape(w.shape)
        self.bias.grad = grad.sum(axis=0)
        x_grad = np.zeros(self.shape, grad.dtype)
        if not first:
            columns = grad @ w.reshape(len(w), -1)
            columns = columns.reshape(n, rows, cols, -1, k, k)
            for u, v in np.ndindex(k, k):
                part = columns[..., u, v].transpose(0, 3, 1, 2)
                x_grad[:, :, u : u + rows, v : v + cols] += part
        return x_grad


class ReLU:
    """max(x, 0)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.mask = x > 0
        return x * self.mask

    def backward(self, grad: np.ndarray, first: bool) -> np.ndarray:
        return grad * self.mask


class Pool:
    """The largest of each k x k window, by argmax."""

    def __init__(self, k: int, stride: int) -> None:
        self.k, self.stride = k, stride

    def forward(self, x: np.ndarray) -> np.ndarray:
        k, s = self.k, self.stride
        self.shape = x.shape
        windows = sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::s, ::s]
        flat = windows.reshape(*windows.shape[:4], k * k)
        self.winner = flat.argmax(axis=4)[..., np.newaxis]
        y: np.ndarray = np.take_along_axis(flat, self.winner, axis=4)[..., 0]
        return y

    def backward(self, grad: np.ndarray, first: bool) -> np.ndarray:
        u, v = np.divmod(self.winner[..., 0], self.k)
        n, c, i, j = np.ix_(*map(np.arange, grad.shape))
        x_grad = np.zeros(self.shape, grad.dtype)
        place = n, c, i * self.stride + u, j * self.stride + v
        if self.stride >= self.k:
            x_grad[place] = grad
        else:
            np.add.at(x_grad, place, grad)
        return x_grad


class Flatten:
    """(N, C, H, W) -> (N, C*H*W)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, grad: np.ndarray, first: bool) -> np.ndarray:
        return grad.reshape(self.shape)


class Linear:
    """x W^T + b."""

    def __init__(self, features: int, outputs: int) -> None:
        self.weight = Parameter(outputs, features)
        self.bias = Parameter(outputs)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        y: np.ndarray = x @ self.weight.value.T + self.bias.value
        return y

    def backward(self, grad: np.ndarray, first: bool) -> np.ndarray:
        self.weight.grad = grad.T @ self.x
        self.bias.grad = grad.sum(axis=0)
        x_grad: np.ndarray = grad @ self.weight.value
        return x_grad


KINDS: dict[str, Any] = {
    "conv": Conv,
    "relu": ReLU,
    "pool": Pool,
    "flatten": Flatten,
    "linear": Linear,
}


class Network:
    """The layers of a plan, one after the other."""

    def __init__(self, plan: Any) -> None:
        self.layers = [KINDS[kind](*sizes) for kind, *sizes in plan]

    def parameters(self) -> list[Parameter]:
        holders = [vars(layer).values() for layer in self.layers]
        return [p for h in holders for p in h if isinstance(p, Parameter)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def train_step(
        self, x: np.ndarray, labels: np.ndarray, lr: float
    ) -> float:
        logits = self.forward(x)
        grad = cross_entropy_backward(logits, labels)
        for layer in reversed(self.layers):
            grad = layer.backward(grad, layer is self.layers[0])
        for parameter in self.parameters():
            parameter.value -= lr * parameter.grad
        return cross_entropy(logits, labels)
