# Written by book/back/api.md. To keep edits: tangle.py --back.
"""A convolutional network in NumPy alone, written by the book's chapters."""

from cnn.augmentation import distort
from cnn.averaging import WeightAverage
from cnn.convolution import Conv2d, conv2d, conv2d_backward
from cnn.data import Dataset, load_dataset, minibatches
from cnn.experiment import run_experiment
from cnn.fast import keep_freed_memory
from cnn.gradient_check import (
    check_gradients,
    numerical_gradient,
    relative_error,
)
from cnn.initialization import he, initialize, xavier
from cnn.layer import Layer, Parameter
from cnn.linear import Flatten, Linear, linear, linear_backward
from cnn.loss import (
    CrossEntropyLoss,
    cross_entropy,
    cross_entropy_backward,
    softmax,
)
from cnn.max_pooling import MaxPool2d, max_pool2d, max_pool2d_backward
from cnn.metrics import (
    accuracy,
    average_precision_recall_f1,
    confusion_matrix,
    precision_recall_f1,
)
from cnn.network import Sequential, load_parameters, save_parameters
from cnn.optimizer import SGD, cosine_schedule
from cnn.parallel import ParallelStep
from cnn.relu import ReLU, relu, relu_backward
from cnn.training import Epoch, evaluate, predict, train, train_step
from cnn.workers import DistributedStep, open_workers


__all__ = [
    "SGD",
    "Conv2d",
    "CrossEntropyLoss",
    "Dataset",
    "DistributedStep",
    "Epoch",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2d",
    "ParallelStep",
    "Parameter",
    "ReLU",
    "Sequential",
    "WeightAverage",
    "accuracy",
    "average_precision_recall_f1",
    "check_gradients",
    "confusion_matrix",
    "conv2d",
    "conv2d_backward",
    "cosine_schedule",
    "cross_entropy",
    "cross_entropy_backward",
    "distort",
    "evaluate",
    "he",
    "initialize",
    "keep_freed_memory",
    "linear",
    "linear_backward",
    "load_dataset",
    "load_parameters",
    "max_pool2d",
    "max_pool2d_backward",
    "minibatches",
    "numerical_gradient",
    "open_workers",
    "precision_recall_f1",
    "predict",
    "relative_error",
    "relu",
    "relu_backward",
    "run_experiment",
    "save_parameters",
    "softmax",
    "train",
    "train_step",
    "xavier",
]
