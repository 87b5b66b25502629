# Written by book/beyond/adam.md. To keep edits: tangle.py --back.
"""Adam and its relatives: Nesterov, RMSprop, AdamW."""

from collections.abc import Iterable

import numpy as np

from cnn.data import as_numbers, check_numbers
from cnn.layer import Parameter
from cnn.optimizer import SGD


def penalised(p: Parameter, weight_decay: float) -> np.ndarray:
    """The gradient of the loss plus weight_decay / 2 * |w|^2 to p."""
    return p.grad + weight_decay * p.value if weight_decay else p.grad


class Nesterov(SGD):
    """v <- momentum * v + grad;  w <- w - lr * (grad + momentum * v).

    SGD with the gradient of a place further on; weight_decay is in grad.
    parameters, lr, momentum, weight_decay: as SGD has them.
    Equation: eq-adam-nesterov.
    """

    def step(self) -> None:
        """Move each parameter's value, in place, by its grad."""
        for p, v in zip(self.parameters, self.velocities, strict=True):
            grad = penalised(p, self.weight_decay)
            v *= self.momentum
            v += grad
            p.value -= self.lr * (grad + self.momentum * v)


def follow(mean: np.ndarray, new: np.ndarray, beta: float) -> None:
    """mean <- beta * mean + (1 - beta) * new, in place.

    mean, new: of one shape. beta: the share of mean that stays, below 1.
    Equation: eq-adam-mean.
    """
    mean += (1 - beta) * (new - mean)


def check_settings(
    user: str, lr: float, eps: float, decay: float, shares: tuple[float, float]
) -> None:
    """ValueError, naming user, unless lr, eps, decay, shares are in range."""
    check_numbers(lr=lr, eps=eps, weight_decay=decay)
    as_numbers(user, "betas", shares)
    fit = all(0 <= number < np.inf for number in (lr, eps, decay)) and eps > 0
    pair = np.shape(shares) == (2,) and all(0 <= s < 1 for s in shares)
    if not fit or not pair:
        raise ValueError(
            f"{user} was given lr={lr}, eps={eps}, weight_decay={decay}, and "
            f"as shares that stay {shares}; expected lr and weight_decay >= 0,"
            " eps > 0, all finite, and two shares, each 0 <= share < 1. "
            f"Begin with {user}(parameters), and change one at a time."
        )


class RMSprop(SGD):
    """Each gradient is divided by the root mean square of those before it.

    parameters, momentum, weight_decay: as SGD has them.
    lr: about how far a weight goes in a step. alpha: beta, the share of the
        mean square that stays. eps: above 0, added to the root.
    Equation: eq-adam-rmsprop.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        check_numbers(alpha=alpha, momentum=momentum)
        check_settings("RMSprop", lr, eps, weight_decay, (alpha, momentum))
        super().__init__(parameters, lr, momentum, weight_decay)
        self.alpha, self.eps = alpha, eps
        self.squares = [np.zeros_like(p.value) for p in self.parameters]

    def step(self) -> None:
        """Move each parameter's value, in place, by its grad."""
        state = zip(self.velocities, self.squares, strict=True)
        for p, (v, q) in zip(self.parameters, state, strict=True):
            grad = penalised(p, self.weight_decay)
            follow(q, grad**2, self.alpha)
            v *= self.momentum
            v += grad / (np.sqrt(q) + self.eps)
            p.value -= self.lr * v


class Adam(SGD):
    """A mean of gradients, divided by the root of a mean of their squares.

    parameters: as SGD has them. lr: about how far a weight goes in a step.
    betas: two shares, of the mean and of the mean square, that stay.
    eps: above 0, added to the root. ValueError if one is out of range.
    weight_decay: adds weight_decay / 2 * |w|^2 to the loss; see AdamW.
    Equations: eq-adam-corrected, eq-adam-adam.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        check_settings(type(self).__name__, lr, eps, weight_decay, betas)
        one, two = betas
        super().__init__(parameters, lr, one, weight_decay)
        self.betas, self.eps = (one, two), eps
        self.squares = [np.zeros_like(p.value) for p in self.parameters]
        self.counts = [np.zeros((), int) for _ in self.parameters]

    def move(self, place: int, grad: np.ndarray) -> None:
        """Move one parameter: place counts from 0, grad is like its value."""
        m, q = self.velocities[place], self.squares[place]
        self.counts[place] += 1
        one, two = self.betas
        t = int(self.counts[place])
        follow(m, grad, one)
        follow(q, grad**2, two)
        root = np.sqrt(q / (1 - two**t)) + self.eps
        self.parameters[place].value -= self.lr / (1 - one**t) * m / root

    def step(self) -> None:
        """Move each parameter's value, in place, by its grad."""
        for place, p in enumerate(self.parameters):
            self.move(place, penalised(p, self.weight_decay))


class AdamW(Adam):
    """Adam that takes lr * weight_decay off each weight, and not by grad.

    parameters, lr, betas, eps: as Adam has them.
    weight_decay: the share of each weight that decays, per step and lr.
    Equation: eq-adam-adamw.
    """

    def step(self) -> None:
        """Move each parameter's value, in place, by its grad."""
        for place, p in enumerate(self.parameters):
            p.value *= 1 - self.lr * self.weight_decay
            self.move(place, p.grad)
