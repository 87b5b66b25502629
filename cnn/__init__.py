# Written by book/back/api.md. To keep edits: tangle.py --back.
"""A convolutional network in NumPy alone, written by the book's chapters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnn.convolution import Conv2d, conv2d, conv2d_backward
from cnn.data import Dataset, minibatches
from cnn.gradient_check import (
    check_gradients,
    numerical_gradient,
    relative_error,
)
from cnn.initialization import he_std, initialize, xavier_std
from cnn.layer import Buffer, Layer, Parameter
from cnn.linear import Flatten, Linear, linear, linear_backward
from cnn.loss import (
    CrossEntropyLoss,
    cross_entropy,
    cross_entropy_backward,
    softmax,
)
from cnn.max_pooling import MaxPool2d, max_pool2d, max_pool2d_backward
from cnn.metrics import (
    EpochMetrics,
    accuracy,
    average_precision_recall_f1,
    confusion_matrix,
    precision_recall_f1,
)
from cnn.network import Sequential, load_arrays, save_arrays
from cnn.optimizer import SGD, cosine_schedule
from cnn.relu import ReLU, relu, relu_backward
from cnn.training import evaluate, predict, train, train_step


if TYPE_CHECKING:
    from cnn.back.files import load_dataset
    from cnn.beyond.adam import Adam, AdamW, Nesterov, RMSprop
    from cnn.beyond.augmentation import distort
    from cnn.beyond.averaging import ExponentialMovingAverage
    from cnn.beyond.batch_norm import (
        BatchNorm2d,
        batch_norm,
        batch_norm_backward,
    )
    from cnn.beyond.dropout import Dropout
    from cnn.beyond.fast import keep_freed_memory
    from cnn.beyond.own_data import make_datasets
    from cnn.beyond.own_digits import prepare_digit
    from cnn.beyond.parallel import ParallelStep
    from cnn.beyond.residual import (
        AvgPool2d,
        GlobalAvgPool2d,
        Residual,
        avg_pool2d,
        avg_pool2d_backward,
    )
    from cnn.beyond.workers import DistributedStep, open_workers
    from cnn.experiments.experiment import run_experiment


# What the upper floor offers: each name with its module.
UPSTAIRS = {
    "Adam": "cnn.beyond.adam",
    "AdamW": "cnn.beyond.adam",
    "AvgPool2d": "cnn.beyond.residual",
    "BatchNorm2d": "cnn.beyond.batch_norm",
    "DistributedStep": "cnn.beyond.workers",
    "Dropout": "cnn.beyond.dropout",
    "ExponentialMovingAverage": "cnn.beyond.averaging",
    "GlobalAvgPool2d": "cnn.beyond.residual",
    "Nesterov": "cnn.beyond.adam",
    "ParallelStep": "cnn.beyond.parallel",
    "RMSprop": "cnn.beyond.adam",
    "Residual": "cnn.beyond.residual",
    "avg_pool2d": "cnn.beyond.residual",
    "avg_pool2d_backward": "cnn.beyond.residual",
    "batch_norm": "cnn.beyond.batch_norm",
    "batch_norm_backward": "cnn.beyond.batch_norm",
    "distort": "cnn.beyond.augmentation",
    "keep_freed_memory": "cnn.beyond.fast",
    "load_dataset": "cnn.back.files",
    "make_datasets": "cnn.beyond.own_data",
    "open_workers": "cnn.beyond.workers",
    "prepare_digit": "cnn.beyond.own_digits",
    "run_experiment": "cnn.experiments.experiment",
}


def __getattr__(name: str) -> Any:
    """Import a name of the upper floor when it is asked for."""
    if name not in UPSTAIRS:
        raise AttributeError(f"module 'cnn' has no attribute {name!r}")
    return getattr(import_module(UPSTAIRS[name]), name)


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AvgPool2d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Dataset",
    "DistributedStep",
    "Dropout",
    "EpochMetrics",
    "ExponentialMovingAverage",
    "Flatten",
    "GlobalAvgPool2d",
    "Layer",
    "Linear",
    "MaxPool2d",
    "Nesterov",
    "ParallelStep",
    "Parameter",
    "RMSprop",
    "ReLU",
    "Residual",
    "Sequential",
    "accuracy",
    "average_precision_recall_f1",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "check_gradients",
    "confusion_matrix",
    "conv2d",
    "conv2d_backward",
    "cosine_schedule",
    "cross_entropy",
    "cross_entropy_backward",
    "distort",
    "evaluate",
    "he_std",
    "initialize",
    "keep_freed_memory",
    "linear",
    "linear_backward",
    "load_arrays",
    "load_dataset",
    "make_datasets",
    "max_pool2d",
    "max_pool2d_backward",
    "minibatches",
    "numerical_gradient",
    "open_workers",
    "precision_recall_f1",
    "predict",
    "prepare_digit",
    "relative_error",
    "relu",
    "relu_backward",
    "run_experiment",
    "save_arrays",
    "softmax",
    "train",
    "train_step",
    "xavier_std",
]
