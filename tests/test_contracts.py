"""What is given to the package off the paved road: any type, any shape.

A table has one right call of everything that takes arrays. Each array of it
is then given in every other kind, and with every axis dropped, added, longer,
of length 1 (which NumPy would stretch) and empty. What comes back is the right
value, or an error in the package's own words.
"""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONTRACT_LAYERS, in_order

import cnn
from cnn import windows
from cnn.beyond.augmentation import (
    affine_grid,
    elastic_field,
    grid_sample,
    random_matrices,
)
from cnn.beyond.batch_norm import batch_statistics
from cnn.beyond.dropout import dropout, dropout_backward
from cnn.beyond.fast import fuse_layers
from cnn.convolution import conv2d_grad_input
from cnn.data import check_generator, check_numbers, mean_and_std, scale
from cnn.loss import log_softmax
from cnn.training import Checkpoint, train_epoch
from cnn.windows import col2im, im2col, output_size, pad, strided_slice


Arrays = dict[str, Any]
ARGUMENT = re.compile(r"(\w+) \((.*?)\)")


@dataclass(frozen=True)
class Row:
    """A right call.

    call: takes the arrays by name, and returns arrays and numbers.
    arrays: names and shapes. A size with * is the caller's choice; "..." at
        the end: there may be more axes or fewer.
    says: one of these names is in each error.
    labels: the arguments that are numbers of classes.
    also: what is accepted here, and nowhere else.
    """

    call: Callable[..., Any]
    arrays: str
    says: tuple[str, ...]
    labels: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: tuple(int(n) for n in re.findall(r"\d+", axes))
            for name, axes in ARGUMENT.findall(self.arrays)
        }

    def right(self) -> Arrays:
        """Whole numbers, which every dtype can hold."""
        rng = np.random.default_rng(0)
        return {
            name: rng.integers(0, 3, shape).astype(
                np.int64 if name in self.labels else np.float64
            )
            for name, shape in self.shapes().items()
        }


def network() -> cnn.Sequential:
    """(N, 1, 6, 6) -> (N, 3), in float64."""
    rng = np.random.default_rng(0)
    return cnn.Sequential(
        cnn.Conv2d(1, 2, 3, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Flatten(),
        cnn.Linear(8, 3, rng=rng),
    ).to(np.float64)


def dataset(images: Any, labels: Any) -> cnn.Dataset:
    return cnn.Dataset("few", images, labels, ("a", "b", "c"), 0.0, 1.0)


def stepped(step: Any, images: Any, labels: Any) -> Any:
    ours = network()
    optimizer = cnn.SGD(ours.parameters(), 0.1)
    found = step(ours, optimizer, images, labels)
    return *found, *ours.state_dict().values()


def parallel_step(images: Any, labels: Any) -> Any:
    ours = network()
    with cnn.ParallelStep(ours, workers=1) as step:
        found = step(ours, cnn.SGD(ours.parameters(), 0.1), images, labels)
    return *found, *ours.state_dict().values()


class Here:
    """A client of dask's that computes at once."""

    def map(self, function: Any, *arguments: Any, pure: bool) -> list[Any]:
        return [function(*each) for each in zip(*arguments, strict=True)]

    def gather(self, found: list[Any]) -> list[Any]:
        return found


def batches(images: Any, labels: Any) -> Any:
    each = cnn.minibatches(
        dataset(images, labels), 2, np.random.default_rng(0)
    )
    return [array for batch in each for array in batch]


def criterion(logits: Any, labels: Any) -> Any:
    loss = cnn.CrossEntropyLoss()
    return loss.forward(logits, labels), loss.backward()


def loaded(value: Any) -> Any:
    layer = cnn.ReLU()
    layer.value = cnn.Parameter(np.ones((2, 3)))  # type: ignore[attr-defined]
    layer.load_state_dict({"value": value})
    return layer.state_dict()["value"]


def saved(array: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        cnn.save_arrays(f"{folder}/a.npz", {"array": array})
        return cnn.load_arrays(f"{folder}/a.npz")["array"]


def distorted(images: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    return cnn.distort(images, rng, fill=0.0, shift=1.0, rotation=10)


def value_and_grad(value: Any) -> Any:
    parameter = cnn.Parameter(value)
    return parameter.value, parameter.grad


def checked(x: Any) -> Any:
    layer = cnn.Linear(5, 3, rng=np.random.default_rng(0)).to(np.float64)
    return sorted(cnn.check_gradients(layer, x, np.random.default_rng(0)))


PAIR = ("labels", "predictions")
LOSS = ("cross_entropy", "log_softmax")
STEP = ("Conv2d", "linear", "Flatten", *LOSS)
BATCH = "images (4, 1, 6*, 6*), labels (4,)"
CALLS = {
    "Buffer": Row(
        lambda value: cnn.Buffer(value).value,
        "value (2*, 3*, ...)",
        ("Buffer",),
        also=("empty",),
    ),
    "CrossEntropyLoss": Row(
        criterion, "logits (4, 3*), labels (4,)", LOSS, ("labels",)
    ),
    "Dataset": Row(
        lambda images, labels: [
            getattr(dataset(images, labels).subset(slice(2)), name)
            for name in ("images", "labels")
        ],
        "images (4, 1*, 6*, 6*, ...), labels (4,)",
        ("Dataset",),
        ("labels",),
    ),
    "DistributedStep": Row(
        lambda images, labels: stepped(
            cnn.DistributedStep(Here(), shards=2),  # type: ignore[arg-type]
            images,
            labels,
        ),
        BATCH,
        ("DistributedStep", *STEP),
        ("labels",),
    ),
    "ParallelStep": Row(
        parallel_step, BATCH, ("ParallelStep", *STEP), ("labels",)
    ),
    "Parameter": Row(value_and_grad, "value (2*, 3*, ...)", ("Parameter",)),
    "accuracy": Row(cnn.accuracy, "confusion (3, 3)", ("accuracy",)),
    "average_precision_recall_f1": Row(
        lambda confusion: [
            cnn.average_precision_recall_f1(confusion, average)
            for average in ("macro", "weighted", "micro")
        ],
        "confusion (3, 3)",
        ("average_precision_recall_f1",),
    ),
    "avg_pool2d": Row(
        lambda x: cnn.avg_pool2d(x, 3, 1, 1),
        "x (4*, 2*, 6*, 6*)",
        ("avg_pool2d",),
    ),
    "avg_pool2d_backward": Row(
        lambda grad_output: cnn.avg_pool2d_backward(
            grad_output, (4, 2, 6, 6), 3, 1
        ),
        "grad_output (4, 2, 4, 4)",
        ("avg_pool2d_backward",),
    ),
    "batch_norm": Row(
        cnn.batch_norm,
        "x (4*, 2, 6*, 6*), weight (2,), bias (2,), mean (2,), var (2,)",
        ("batch_norm",),
    ),
    "batch_norm_backward": Row(
        cnn.batch_norm_backward,
        "grad_output (4, 2, 6, 6), x (4, 2, 6, 6), weight (2,), "
        "mean (2,), var (2,)",
        ("batch_norm_backward",),
    ),
    "check_gradients": Row(
        checked, "x (4*, 5)", ("check_gradients", "linear")
    ),
    "confusion_matrix": Row(
        lambda labels, predictions: cnn.confusion_matrix(
            labels, predictions, 3
        ),
        "labels (4,), predictions (4,)",
        ("confusion_matrix",),
        PAIR,
    ),
    "conv2d": Row(
        lambda x, weight, bias: cnn.conv2d(x, weight, bias, 2, 1),
        "x (4*, 2, 6*, 6*), weight (3, 2, 3*, 3*), bias (3,)",
        ("conv2d",),
    ),
    "conv2d_backward": Row(
        cnn.conv2d_backward,
        "grad_output (4, 3, 4, 4), x (4, 2, 6, 6), weight (3, 2, 3, 3)",
        ("conv2d_backward",),
    ),
    "cross_entropy": Row(
        cnn.cross_entropy, "logits (4, 3*), labels (4,)", LOSS, ("labels",)
    ),
    "cross_entropy_backward": Row(
        cnn.cross_entropy_backward,
        "logits (4, 3*), labels (4,)",
        ("cross_entropy_backward", "log_softmax"),
        ("labels",),
    ),
    "distort": Row(distorted, "images (4*, 2*, 6*, 6*)", ("distort",)),
    "evaluate": Row(
        lambda images, labels: cnn.evaluate(
            network(), dataset(images, labels)
        ),
        BATCH,
        ("Dataset", "predict", *STEP),
        ("labels",),
    ),
    "linear": Row(
        cnn.linear, "x (4*, 5), weight (3, 5), bias (3,)", ("linear",)
    ),
    "linear_backward": Row(
        cnn.linear_backward,
        "grad_output (4, 3), x (4, 5), weight (3, 5)",
        ("linear_backward",),
    ),
    "max_pool2d": Row(
        lambda x: cnn.max_pool2d(x, 3, 1, 1),
        "x (4*, 2*, 6*, 6*)",
        ("max_pool2d",),
    ),
    "max_pool2d_backward": Row(
        lambda grad_output, x, y: cnn.max_pool2d_backward(
            grad_output, x, y, 3, 1
        ),
        "grad_output (4, 2, 4, 4), x (4, 2, 6, 6), y (4, 2, 4, 4)",
        ("max_pool2d_backward",),
    ),
    "minibatches": Row(
        batches,
        "images (4, 1*, 6*, 6*, ...), labels (4,)",
        ("Dataset",),
        ("labels",),
    ),
    "numerical_gradient": Row(
        lambda x: cnn.numerical_gradient(lambda x: float((x**2).sum()), x),
        "x (2*, 3*, ...)",
        ("numerical_gradient",),
    ),
    "precision_recall_f1": Row(
        cnn.precision_recall_f1, "confusion (3, 3)", ("precision_recall_f1",)
    ),
    "predict": Row(
        lambda images: cnn.predict(network(), images),
        "images (4*, 1, 6*, 6*)",
        ("predict", *STEP),
    ),
    "relative_error": Row(
        cnn.relative_error, "a (2, 3), b (2, 3)", ("relative_error",)
    ),
    "relu": Row(cnn.relu, "x (2*, 3*, ...)", ("relu",)),
    "relu_backward": Row(
        cnn.relu_backward, "grad_output (2, 3), x (2, 3)", ("relu_backward",)
    ),
    "save_arrays": Row(
        saved,
        "array (2*, 3*, ...)",
        ("save_arrays",),
        also=("text", "a word", "bytes", "complex", "empty"),
    ),
    "softmax": Row(cnn.softmax, "logits (4*, 3*)", ("log_softmax",)),
    "train_step": Row(
        lambda images, labels: stepped(cnn.train_step, images, labels),
        BATCH,
        ("train_step", *STEP),
        ("labels",),
    ),
}
# What takes no arrays, or takes them in an object that was looked at.
WITHOUT = {
    *("SGD", "Function", "Layer", "EpochMetrics", "ExponentialMovingAverage"),
    *("Nesterov", "RMSprop", "Adam", "AdamW"),
    *("initialize", "he_std", "xavier_std", "cosine_schedule", "train"),
    *("load_arrays", "load_dataset", "run_experiment"),
    *("keep_freed_memory", "open_workers"),
    # Take all kinds of arrays; test_own_digits, test_own_data walk them.
    *("make_datasets", "prepare_digit"),
}
# Not exported, but called by name in the chapters.
CALLS |= {
    "affine_grid": Row(
        lambda matrices, shifts: affine_grid(matrices, shifts, (6, 6)),
        "matrices (4, 2, 2), shifts (4, 2)",
        ("affine_grid",),
    ),
    "batch_statistics": Row(
        batch_statistics, "x (4*, 2*, 6*, 6*)", ("batch_statistics",)
    ),
    "col2im": Row(
        lambda columns: col2im(columns, (4, 2, 6, 6), 3),
        "columns (18, 64)",
        ("col2im",),
    ),
    "grid_sample": Row(
        lambda images, rows, columns: grid_sample(images, rows, columns, 0),
        "images (4, 2*, 6*, 6*), rows (4, 5, 5), columns (4, 5, 5)",
        ("grid_sample",),
    ),
    "im2col": Row(
        lambda x: im2col(x, 3, 2, 1), "x (4*, 2*, 6*, 6*)", ("im2col",)
    ),
    "load_state_dict": Row(loaded, "value (2, 3)", ("it",)),
    "log_softmax": Row(log_softmax, "logits (4*, 3*)", ("log_softmax",)),
    "mean_and_std": Row(
        mean_and_std, "pixels (4*, 6*, 6*, ...)", ("mean_and_std", "pixels")
    ),
    "scale": Row(
        lambda pixels: scale(pixels, 1.0, 2.0),
        "pixels (4*, 6*, 6*, ...)",
        ("scale",),
    ),
}
FREE = {
    "Conv2d": "x (4*, 2, 6*, 6*)",
    "ReLU": "x (4*, 2*, 6*, 6*, ...)",
    "MaxPool2d": "x (4*, 2*, 6*, 6*)",
    "Flatten": "x (4*, 2*, 6*, 6*, ...)",
    "Dropout": "x (4*, 2*, 6*, 6*, ...)",
    "Linear": "x (4*, 5)",
    "Sequential": "x (4*, 2, 6*, 6*)",
    "BatchNorm2d": "x (4*, 2, 6*, 6*)",
    "Residual": "x (4*, 2, 6*, 6*)",
    "AvgPool2d": "x (4*, 2*, 6*, 6*)",
    "GlobalAvgPool2d": "x (4*, 2*, 6*, 6*)",
    "ConvReLUPool": "x (4*, 2, 6*, 6*)",
}
MAKERS = {name: make for name, (make, _) in CONTRACT_LAYERS.items()} | {
    "ConvReLUPool": lambda: fuse_layers(
        cnn.Sequential(
            cnn.Conv2d(2, 3, 3, rng=np.random.default_rng(0)),
            cnn.ReLU(),
            cnn.MaxPool2d(2),
        )
    ).layers[0]
}


def layer_row(name: str, way: str) -> Row:
    make, x = MAKERS[name], FREE[name]
    if way == "forward":
        lower = re.sub("(max|avg)pool", r"\1_pool", name.lower())
        of_layers = name in ("Sequential", "Residual")
        says = name, lower, *(STEP if of_layers else ())
        if name == "ConvReLUPool":
            says = ("Conv2d",)
        return Row(lambda x: make().to(np.float64).forward(x), x, says)
    shape = Row(make, x, ()).shapes()["x"]
    y = make().forward(np.ones(shape)).shape

    def call(grad_output: Any) -> Any:
        layer = make().to(np.float64)
        layer.forward(np.ones(shape))
        found = getattr(layer, way)(grad_output)
        return found, *(parameter.grad for parameter in layer.parameters())

    says = (f"{name if name != 'Sequential' else 'Linear'}.backward",)
    return Row(call, f"grad_output {y}", says)


ROWS = CALLS | {
    f"{name}.{way}": layer_row(name, way)
    for name in FREE
    for way in ("forward", "backward", "backward_parameters")
}
ARGUMENTS = [
    (name, argument) for name in ROWS for argument in ROWS[name].shapes()
]
each_argument = pytest.mark.parametrize(("name", "argument"), ARGUMENTS)


def numbers(found: Any) -> Iterator[np.ndarray]:
    if isinstance(found, list | tuple):
        for each in found:
            yield from numbers(each)
    elif found is not None:
        yield np.asarray(found)


def outcome(row: Row, arrays: Arrays) -> list[np.ndarray] | str:
    """What is returned, or what a ValueError says; all else is a fault."""
    try:
        return list(numbers(row.call(**arrays)))
    except ValueError as error:
        said = str(error)
        assert "expected" in said, said
        words = "|".join((*row.says, "kernel_size"))  # which does not fit
        assert re.search(rf"\b({words})\b", said), said
        return said


def same(found: Any, right: Any, tolerance: float) -> bool:
    return len(found) == len(right) and all(
        a.shape == b.shape
        and (
            np.array_equal(a, b)
            or np.allclose(a, b, rtol=tolerance, atol=tolerance)
        )
        for a, b in zip(found, right, strict=True)
    )


# --- everything is in the table ----------------------------------------------


def test_everything_that_takes_arrays_is_in_the_table() -> None:
    listed = {*CALLS, *FREE, *WITHOUT}
    assert set(cnn.__all__) <= listed, (
        "What is offered must stand in CALLS with a right call or, if it "
        "takes no arrays, in WITHOUT."
    )
    assert {*CONTRACT_LAYERS} <= {*FREE}
    for name in WITHOUT & set(cnn.__all__):
        signature = inspect.signature(getattr(cnn, name))
        for parameter in signature.parameters.values():
            assert parameter.annotation is not np.ndarray, name


@pytest.mark.parametrize("name", ROWS)
def test_the_table_has_each_array(name: str) -> None:
    found = outcome(ROWS[name], ROWS[name].right())
    assert not isinstance(found, str), found
    item = getattr(cnn, name, None)
    if inspect.isfunction(item):
        arrays = {
            parameter.name
            for parameter in inspect.signature(item).parameters.values()
            if parameter.annotation is np.ndarray
        }
        assert arrays <= ROWS[name].shapes().keys()


# --- kinds and dtypes -------------------------------------------------------

# Each of the same numbers; those that are no bools are 0, 1 and 2.
ACCEPTED: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    **{
        name: lambda a, name=name: a.astype(name)  # type: ignore[misc]
        for name in ("i1", "i2", "i4", "i8", "u1", "u8", ">i4", ">i8")
    },
    "float32": lambda a: a.astype(np.float32),
    "float64": lambda a: a.astype(np.float64),
    "longdouble": lambda a: a.astype(np.longdouble),
    "float16": lambda a: a.astype(np.float16),
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian, half": lambda a: a.astype(">f4"),
    "bool": lambda a: a.astype(bool),
    "every other one": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "Fortran": np.asfortranarray,
    "broadcast": lambda a: np.broadcast_to(a, a.shape),
    "no gaps": np.ma.masked_array,
    "tensor": torch.tensor,
}
REFUSED: dict[str, Callable[[np.ndarray], Any]] = {
    "complex": lambda a: a.astype(complex),
    "object": lambda a: a.astype(object),
    "text": lambda a: a.astype(str),
    "a word": lambda a: "images",
    "bytes": lambda a: a.astype(bytes),
    "nothing": lambda a: None,
    "dates": lambda a: a.astype("M8[D]"),
    "times": lambda a: a.astype("m8[s]"),
    "gaps": lambda a: np.ma.masked_equal(a, a.ravel()[0]),
    "a dictionary": lambda a: {"x": a},
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "a generator": lambda a: (row for row in a),
    "a gradient": lambda a: torch.tensor(a.astype(float), requires_grad=True),
    "bfloat16": lambda a: torch.tensor(a).to(torch.bfloat16),
}
# Labels must be whole: which is bools and floats is told what to do.
NO_LABELS = {
    *("float32", "float64", "longdouble", "float16", "bool"),
    *("big-endian", "big-endian, half"),
}


@each_argument
def test_the_same_numbers_of_another_kind(name: str, argument: str) -> None:
    row = ROWS[name]
    of_bools = row.right()
    of_bools[argument] = of_bools[argument].clip(0, 1)
    right = {False: outcome(row, row.right()), True: outcome(row, of_bools)}
    for kind, convert in ACCEPTED.items():
        arrays = of_bools if kind == "bool" else row.right()
        given = convert(arrays[argument])
        found = outcome(row, arrays | {argument: given})
        if isinstance(found, str):
            label = argument in row.labels and kind in NO_LABELS
            assert label, f"{kind} is refused: {found}"
        else:
            small = {"float32", "big-endian, half", "bool", "i1", "i2", "u1"}
            tolerance = 1e-4 if kind in small else 1e-9
            tolerance = 0.05 if kind == "float16" else tolerance
            assert same(found, right[kind == "bool"], tolerance), kind


@each_argument
def test_what_holds_no_plain_numbers(name: str, argument: str) -> None:
    row = ROWS[name]
    for kind, convert in REFUSED.items():
        arrays = row.right()
        found = outcome(row, arrays | {argument: convert(arrays[argument])})
        if kind not in row.also:
            assert isinstance(found, str), f"{kind}: accepted"
            assert re.search(rf"given {argument}\b", found), found


# --- shapes -----------------------------------------------------------------


def longer(array: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([array, array.take([0], axis)], axis)


def other_shapes(row: Row, argument: str) -> Iterator[tuple[str, Any, bool]]:
    """What is wrong, the array, and whether it may be right all the same."""
    array = row.right()[argument]
    axes = dict(ARGUMENT.findall(row.arrays))[argument]
    any_axes, sizes = "..." in axes, re.findall(r"\d+\*?", axes)
    yield "the first axis is gone", array[0], any_axes and "*" in sizes[0]
    yield "the last axis is gone", array[..., 0], any_axes
    yield "one before", array[np.newaxis], any_axes and "*" in sizes[0]
    yield "one behind", array[..., np.newaxis], any_axes
    yield "no axes at all", array.ravel()[0], any_axes and "*" in sizes[0]
    for axis, size in enumerate(sizes):
        free = "*" in size
        yield f"{axis} is longer", longer(array, axis), free
        yield f"{axis} has length 1", array.take([0], axis), free
        yield f"{axis} is empty", array.take([], axis), False


@each_argument
def test_another_shape(name: str, argument: str) -> None:
    row = ROWS[name]
    for fault, array, fine in other_shapes(row, argument):
        found = outcome(row, row.right() | {argument: array})
        fine = fine or fault.partition(" is ")[2] in row.also
        if array.shape != row.right()[argument].shape and not fine:
            assert isinstance(found, str), f"{fault}: accepted"
            if axes := re.search(r"expected \((.*?)\)", found):
                small = {*re.findall("[a-z]", axes[1])}
                assert small <= {"k", "l"}, f"a size is a capital: {found}"


# --- the way out ------------------------------------------------------------

Z = np.random.default_rng(1).standard_normal((3, 4))
T = np.array([2, 0, 3])
WAYS_WITH_LABELS: dict[str, tuple[Any, Callable[[Any], Any], str]] = {
    "a column": (T[:, np.newaxis], np.ravel, "np.ravel(labels)"),
    "a row": (T[np.newaxis], np.ravel, "np.ravel(labels)"),
    "a column in a list": ([[2], [0], [3]], np.ravel, "np.ravel(labels)"),
    "one-hot": (
        np.eye(4)[T],
        lambda labels: np.argmax(labels, axis=1),
        "np.argmax(labels, axis=1)",
    ),
    "floats": (
        T.astype(float),
        lambda labels: np.array(labels, int),
        "np.array(labels, int)",
    ),
    "floats in a list": (
        [2.0, 0.0, 3.0],
        lambda labels: np.array(labels, int),
        "np.array(labels, int)",
    ),
    "from 1": (
        T + 1,
        lambda labels: np.subtract(labels, 1),
        "np.subtract(labels, 1)",
    ),
    "from 1, in a list": (
        [3, 1, 4],
        lambda labels: np.subtract(labels, 1),
        "np.subtract(labels, 1)",
    ),
}


@pytest.mark.parametrize("fault", WAYS_WITH_LABELS)
def test_the_way_out_leads_to_the_right_loss(fault: str) -> None:
    given, way, said = WAYS_WITH_LABELS[fault]
    with pytest.raises(ValueError, match=in_order("expected (3,)", said)):
        cnn.cross_entropy(Z, given)
    assert cnn.cross_entropy(Z, way(given)) == cnn.cross_entropy(Z, T)
    assert np.array_equal(
        cnn.confusion_matrix(T, way(given), 4), np.diag([1, 0, 1, 1])
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.5, 1.0, 2.0], "a fraction is none"),
        ([np.nan, 1.0, 2.0], "a fraction is none"),
        ([np.inf, 1.0, 2.0], "a fraction is none"),
        ([-1.0, 1.0, 2.0], "a fraction is none"),
        ([2, 0], "one number of a class for each of the 3 images"),
        ([2, 0, 3, 1], "one number of a class for each of the 3 images"),
        (2, "one number of a class for each of the 3 images"),
        ([2, -1, 3], "Leave out images without a class"),
        ([2, 0, 7], "more outputs, a larger num_classes"),
        ([1, 2, 5], "more outputs, a larger num_classes"),
        ([0, 2, 4], "more outputs, a larger num_classes"),
    ],
)
def test_labels_without_a_simple_way_out(labels: Any, said: str) -> None:
    with pytest.raises(ValueError, match=in_order("expected (3,)", said)):
        cnn.cross_entropy(Z, labels)


def test_every_class_may_be_a_label() -> None:
    for labels in ([0, 0, 0], [3, 3, 3], [0, 3, 0]):
        assert cnn.cross_entropy(Z, labels) > 0


X = np.random.default_rng(2).standard_normal((5, 2, 6, 6))
W = np.random.default_rng(3).standard_normal((3, 2, 3, 3))
GREY = W[:, :1]
B = np.zeros(3)
ARRAY_WAYS: dict[str, tuple[Any, Any, Any, str, str]] = {
    "one image": (X[0], W, B, "x[np.newaxis]", "X[:1]"),
    "grey images": (X[:, 0], GREY, B, "x[:, np.newaxis]", "X[:, :1]"),
    "text": (X.astype(str), W, B, "np.array(x, float)", "X"),
    "objects": (X.astype(object), W, B, "np.array(x, float)", "X"),
    "complex": (X.astype(complex), W, B, "np.real(x)", "X"),
    "gaps": (
        np.ma.masked_equal(np.where(X > 0, X, 0), 0),
        *(W, B, "x.filled(0)", "np.where(X > 0, X, 0)"),
    ),
    "rows": (X.reshape(5, 72), W, B, "x.reshape", "X"),
    "a tensor": (
        torch.tensor(X, requires_grad=True),
        *(W, B, "tensor.detach().numpy()", "X"),
    ),
}


@pytest.mark.parametrize("fault", ARRAY_WAYS)
def test_the_way_out_leads_to_the_right_images(fault: str) -> None:
    x, weight, bias, way, right = ARRAY_WAYS[fault]
    with pytest.raises(
        ValueError, match=in_order("conv2d was given x ", "expected", way)
    ):
        cnn.conv2d(x, weight, bias)
    way = way.replace("tensor", "x") + "(X.shape)" * (way == "x.reshape")
    found = cnn.conv2d(eval(way, {"np": np, "x": x, "X": X}), weight, bias)
    expected = eval(right, {"np": np, "X": X})
    assert np.allclose(found, cnn.conv2d(expected, weight, bias))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cnn.conv2d(X, W, B[:1]), "where F is 3 as in weight of"),
        (lambda: cnn.conv2d(X, W, B[:1]), "Mend bias, or what it shall go"),
        (lambda: cnn.conv2d(X[np.newaxis], W, B), "Give it these axes, by x"),
        (lambda: cnn.linear(X[0], W[:, 0, 0], B), "Put a Flatten()"),
        (lambda: cnn.conv2d(X[:0], W, B), "look at the index that selected"),
        (lambda: cnn.conv2d(X, GREY, B), "Set in_channels to 2"),
        (lambda: cnn.linear(X, W[:, 0, 0], B), "Put a Flatten()"),
        (lambda: cnn.linear(Z, W[:, 0, 0], B), "Set in_features to 4"),
        (
            lambda: cnn.relu_backward(np.ones(3), np.ones((3, 1))),
            "A gradient has the shape of what it is a gradient to.",
        ),
        (
            lambda: cnn.linear_backward(Z[:2], Z, np.eye(4)),
            "A gradient has the shape",
        ),
        (lambda: cnn.accuracy(Z), "expected (K, K), where K is 3"),
        (lambda: cnn.accuracy(-np.eye(3)), "confusion_matrix counts"),
        (lambda: cnn.relu([[1.0], [1.0, 2.0]]), "inhomogeneous shape"),
        (lambda: scale(X[:, 0], 0.0, 1.0), "np.rint(255 * pixels)"),
        (lambda: dataset(X, [0, 1, 2]), "Index both alike"),
        (lambda: dataset(X, np.zeros((5, 1))), "np.ravel(labels) of a column"),
        (
            lambda: stepped(cnn.train_step, X[:, :1], [0, 1, 2, 0]),
            "expected (5,)",
        ),
        (lambda: parallel_step(X[:, :1], [0]), "Take both from the same"),
    ],
)
def test_each_case_has_a_way_out_of_its_own(
    call: Callable[[], Any], said: str
) -> None:
    words = rf"(?=.*expected ).*(?<!\w){re.escape(said)}"
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "right"),
    [
        (
            lambda: cnn.conv2d(X, W, B, [2, 1], [1, 0]),
            lambda: cnn.conv2d(X, W, B, (2, 1), (1, 0)),
        ),
        (
            lambda: cnn.max_pool2d(X, np.int64(2), [np.int8(1), 2]),
            lambda: cnn.max_pool2d(X, 2, (1, 2)),
        ),
    ],
)
def test_a_pair_may_be_a_list(
    call: Callable[[], Any], right: Callable[[], Any]
) -> None:
    assert np.array_equal(call(), right())


COUNTS: dict[str, Callable[[Any], Any]] = {
    "in_channels": lambda n: cnn.Conv2d(n, 1, 1, rng=rng()),
    "out_channels": lambda n: cnn.Conv2d(1, n, 1, rng=rng()),
    "in_features": lambda n: cnn.Linear(n, 1, rng=rng()),
    "out_features": lambda n: cnn.Linear(1, n, rng=rng()),
    "fan_in": lambda n: cnn.he_std(n, 1) + cnn.xavier_std(n, 1),
    "fan_out": lambda n: cnn.he_std(1, n) + cnn.xavier_std(1, n),
    "num_classes": lambda n: cnn.confusion_matrix([0], [0], n),
    "batch_size": lambda n: next(
        cnn.minibatches(dataset(X, [0] * 5), n, rng())
    ),
    "workers": lambda n: cnn.ParallelStep(network(), workers=n),
    "shards": lambda n: cnn.DistributedStep(Here(), shards=n),  # type: ignore[arg-type]
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_and_positive(name: str) -> None:
    COUNTS[name](np.int64(1))
    for count in (0, -1, 1.5, 1.0, "1", None, [1], (1, 2, 3), np.nan):
        says = re.escape(f"{name} is {count!r}; expected ")
        with pytest.raises(ValueError, match=f"^{says}"):
            COUNTS[name](count)


Y = np.ones((5, 3, 4, 4))
SIZED: dict[str, tuple[Any, Callable[..., Any]]] = {
    "Conv2d": (
        cnn.Conv2d,
        lambda kernel_size=3, **sizes: cnn.Conv2d(
            2, 3, kernel_size, **sizes, rng=rng()
        ),
    ),
    "MaxPool2d": (
        cnn.MaxPool2d,
        lambda kernel_size=3, **sizes: cnn.MaxPool2d(kernel_size, **sizes),
    ),
    "AvgPool2d": (
        cnn.AvgPool2d,
        lambda kernel_size=3, **sizes: cnn.AvgPool2d(kernel_size, **sizes),
    ),
    "avg_pool2d": (
        cnn.avg_pool2d,
        lambda kernel_size=3, **sizes: cnn.avg_pool2d(X, kernel_size, **sizes),
    ),
    "avg_pool2d_backward": (
        cnn.avg_pool2d_backward,
        lambda kernel_size=3, **sizes: cnn.avg_pool2d_backward(
            X[..., :4, :4], X.shape, kernel_size, **{"stride": 1} | sizes
        ),
    ),
    "conv2d": (cnn.conv2d, partial(cnn.conv2d, X, W, B)),
    "conv2d_backward": (
        cnn.conv2d_backward,
        partial(cnn.conv2d_backward, Y, X, W),
    ),
    "conv2d_grad_input": (
        conv2d_grad_input,
        partial(conv2d_grad_input, Y, W, X.shape),
    ),
    "max_pool2d": (
        cnn.max_pool2d,
        lambda kernel_size=3, **sizes: cnn.max_pool2d(X, kernel_size, **sizes),
    ),
    "max_pool2d_backward": (
        cnn.max_pool2d_backward,
        lambda kernel_size=3, **sizes: cnn.max_pool2d_backward(
            X[..., :4, :4],
            X,
            X[..., :4, :4],
            kernel_size,
            **{"stride": 1} | sizes,
        ),
    ),
    "output_size": (
        output_size,
        lambda input_size=6, kernel_size=3, **sizes: output_size(
            input_size, kernel_size, **sizes
        ),
    ),
    "im2col": (
        im2col,
        lambda kernel_size=3, **sizes: im2col(X, kernel_size, **sizes),
    ),
    "col2im": (
        col2im,
        lambda kernel_size=3, **sizes: col2im(
            np.ones((18, 80)), X.shape, kernel_size, **sizes
        ),
    ),
    "pad": (pad, lambda padding=1: pad(X, padding)),
    "strided_slice": (
        strided_slice,
        lambda stride=1: strided_slice(X, (0, 0), (2, 2), stride),
    ),
}
SIZES = {"kernel_size", "stride", "padding", "input_size"}


@pytest.mark.parametrize("name", SIZED)
def test_sizes_are_whole_and_large_enough(name: str) -> None:
    given, call = SIZED[name]
    call()
    parameters = inspect.signature(given).parameters
    for size in SIZES & parameters.keys():
        bad = [-1, 1.5, "1", [1], (1, 2, 3), np.nan, (1, -1), (-1, 1)]
        bad += [None] * (parameters[size].default is not None)
        bad += [0, (1, 0), (0, 1)] * (size != "padding")
        for value in bad:
            says = re.escape(f"{size} is {value!r}; expected an int or a pair")
            with pytest.raises(ValueError, match=f"^{says}"):
                call(**{size: value})


def test_all_that_has_sizes_is_walked() -> None:
    """Every public function and layer, and those of the windows."""
    offered = [getattr(cnn, name) for name in cnn.__all__]
    own = (name for name in vars(windows) if "__" not in name)
    offered += [getattr(windows, name) for name in own]  # not mutmut's copies
    for item in filter(callable, offered):
        if getattr(item, "__module__", "").startswith("cnn"):
            sizes = SIZES & inspect.signature(item).parameters.keys()
            assert not sizes or item.__name__ in SIZED, item


# --- a generator ------------------------------------------------------------


def few() -> cnn.Dataset:
    return dataset(X[:, :1], [0, 1, 2, 0, 1])


def sgd(ours: cnn.Sequential) -> cnn.SGD:
    return cnn.SGD(ours.parameters(), 0.1)


# A right call of everything that has an argument rng.
DRAWS: dict[str, Callable[[cnn.Sequential, Any], Any]] = {
    "Checkpoint": lambda ours, rng: Checkpoint(ours, sgd(ours), rng),
    "Conv2d": lambda _, rng: cnn.Conv2d(1, 2, 3, rng=rng),
    "Dropout": lambda _, rng: cnn.Dropout(0.1, rng=rng),
    "Linear": lambda _, rng: cnn.Linear(4, 2, rng=rng),
    "check_gradients": lambda ours, rng: cnn.check_gradients(
        ours, X[:, :1], rng
    ),
    "check_generator": lambda _, rng: check_generator(rng),
    "distort": lambda _, rng: cnn.distort(X, rng, fill=0),
    "elastic_field": lambda _, rng: elastic_field(2, (6, 6), rng, 1, 3),
    "initialize": lambda ours, rng: cnn.initialize(ours, cnn.he_std, rng),
    "minibatches": lambda _, rng: next(cnn.minibatches(few(), 2, rng)),
    "random_matrices": lambda _, rng: random_matrices(2, rng, 1, 1, 1),
    "train": lambda ours, rng: cnn.train(
        *(ours, sgd(ours), few(), few()), epochs=1, batch_size=2, rng=rng
    ),
    "train_epoch": lambda ours, rng: train_epoch(
        ours, sgd(ours), few(), 2, rng
    ),
}


def own(module: str, items: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The public functions and classes that stand in a module."""
    for name, item in items.items():
        kind = inspect.isfunction(item) or inspect.isclass(item)
        public = name[0] != "_" and "__" not in name  # not mutmut's copies
        if kind and public and item.__module__ == module:
            yield name, item


def everything() -> Iterator[tuple[str, Any]]:
    """The public functions and classes of all modules, and their methods."""
    root = Path(cnn.__file__).parent
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root.parent).with_suffix("")
        module = ".".join(path.parts).removesuffix(".__init__")
        for name, item in own(module, vars(import_module(module))):
            yield name, item
            if inspect.isclass(item):
                for method, function in own(module, {**vars(item)}):
                    yield f"{name}.{method}", function


def test_all_that_draws_is_walked() -> None:
    draws = {
        name
        for name, item in everything()
        if "rng" in inspect.signature(item).parameters
    }
    assert draws == {*DRAWS}, "Give DRAWS a right call of each."


@pytest.mark.parametrize("name", DRAWS)
def test_a_generator_is_no_seed(name: str) -> None:
    """What is refused has changed nothing; the way out leads further."""
    ours = network()
    before = ours.state_dict()
    for given in (0, None, "0", [0], np.random, np.random.RandomState(0)):
        says = re.escape(f"rng is {given!r}; expected a NumPy Generator. ")
        with pytest.raises(ValueError, match=f"^{says}") as error:
            DRAWS[name](ours, given)
        for place, value in ours.state_dict().items():
            assert np.array_equal(value, before[place])
    way = str(error.value).partition("rng=")[2].removesuffix(".")
    DRAWS[name](ours, eval(way, {"np": np}))


@pytest.mark.parametrize("name", ["Conv2d", "Linear", "train", "initialize"])
def test_dice_of_ones_own_go_where_a_generator_goes(name: str) -> None:
    class Dice:
        def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, 0.5)

        def permutation(self, count: int) -> np.ndarray:
            return np.arange(count)

    DRAWS[name](network(), Dice())


def test_what_is_refused_has_drawn_nothing() -> None:
    given = rng()
    with pytest.raises(ValueError, match=r"^fill is '0'"):
        cnn.distort(X, given, fill="0", shift=1)  # type: ignore[arg-type]
    assert given.random() == rng().random()


# --- one number -------------------------------------------------------------

OF_TWO = np.ones((4, 2))
# A right call of everything that has an argument which is one number. 0.5
# fits them all.
NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        make.__name__: lambda lr=0.1, make=make, **numbers: make(
            network().parameters(), lr, **numbers
        )
        for make in (cnn.SGD, cnn.Nesterov, cnn.RMSprop, cnn.Adam, cnn.AdamW)
    },
    "BatchNorm2d": partial(cnn.BatchNorm2d, 2),
    "Dropout": lambda p=0.5: cnn.Dropout(p, rng=rng()),
    "ExponentialMovingAverage": lambda decay=0.5: cnn.ExponentialMovingAverage(
        network(), decay
    ),
    "batch_norm": partial(cnn.batch_norm, X, *OF_TWO),
    "batch_norm_backward": partial(cnn.batch_norm_backward, X, X, *OF_TWO[:3]),
    "cosine_schedule": lambda lr=0.1, progress=0.5: cnn.cosine_schedule(
        lr, progress
    ),
    "distort": lambda fill=0, **strengths: cnn.distort(
        X, rng(), fill=fill, **strengths
    ),
    "dropout": lambda p=0.5: dropout(X, X > 0, p),
    "dropout_backward": lambda p=0.5: dropout_backward(X, X > 0, p),
    "grid_sample": lambda fill=0: grid_sample(
        X, np.ones((5, 3, 3)), np.ones((5, 3, 3)), fill
    ),
    "numerical_gradient": partial(
        cnn.numerical_gradient, lambda x: float(x.sum()), B
    ),
    "scale": lambda mean=0.0, std=1.0: scale(
        np.zeros((2, 3, 3), np.uint8), mean, std
    ),
}
# Here a number may have an axis of channels; another test walks it.
OF_CHANNELS = {"Dataset"}
# Are given what their one caller has looked at, or computed.
LOOKED_AT = {
    *("EpochMetrics", "check_finite", "one_sided_slope", "pad"),
    *("check_settings", "follow", "penalised"),
    *("elastic_field", "random_matrices"),
    *("Frame", "area_weights"),
}


def numbers_of(item: Any) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in inspect.signature(item).parameters.values()
        if parameter.annotation in (float, float | None)
    ]


def test_all_that_takes_a_number_is_walked() -> None:
    taking = {name for name, item in everything() if numbers_of(item)}
    assert taking == NUMBERS.keys() | LOOKED_AT | OF_CHANNELS, (
        "Give NUMBERS a right call of each."
    )
    assert not NUMBERS.keys() & LOOKED_AT
    assert {*cnn.__all__} & LOOKED_AT == {"EpochMetrics"}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_one_and_real(name: str) -> None:
    call, item = NUMBERS[name], dict(everything())[name]
    call()
    bad = ["0.1", [0.1, 0.2], (0.1,), np.array([0.1, 0.2]), 0.5j, {}]
    for parameter in numbers_of(item):
        for given in bad + [None] * (parameter.default is not None):
            says = re.escape(
                f"{parameter.name} is {given!r}; expected one real number. "
            )
            with pytest.raises(ValueError, match=f"^{says}") as error:
                call(**{parameter.name: given})
        way = str(error.value).partition("such as ")[2].removesuffix(".")
        for fine in (eval(way), np.float16(0.5), np.float32(0.5)):
            call(**{parameter.name: fine})
        for fine in (np.float64(0.5), np.longdouble(0.5)):
            call(**{parameter.name: fine})


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_dataset_has_numbers_to_scale_by(name: str) -> None:
    whole = dataset(X, [0] * 5)
    for given in ("0.1", None, ["0.1", "0.2"], 0.5j, {}):
        kind = type(given).__name__
        says = f"^Dataset was given {name} of type {kind} .* expected"
        with pytest.raises(ValueError, match=says):
            replace(whole, **{name: given})
    for fine in (1, 0.5, np.float32(0.5), np.ones((2, 1, 1))):
        assert getattr(replace(whole, **{name: fine}), name) is fine


@pytest.mark.parametrize("number", [0, True, np.int8(0), np.uint64(0)])
def test_a_whole_number_is_a_number(number: Any) -> None:
    check_numbers(lr=number)


@pytest.mark.parametrize("make", [cnn.Adam, cnn.AdamW])
@pytest.mark.parametrize(
    "betas",
    [None, 0.9, "0.9", (0.9,), ("0.9", "0.9"), ([0.9, 0.9], 0.9), (0.9, None)],
)
def test_betas_are_two_numbers(make: Any, betas: Any) -> None:
    user = make.__name__
    with pytest.raises(ValueError, match=f"^{user} was given .* expected"):
        make(network().parameters(), betas=betas)


@pytest.mark.parametrize("knots", ["7", None, 2.5, [7]])
def test_knots_are_counted(knots: Any) -> None:
    says = re.escape(f"knots is {knots!r}; expected a whole number")
    with pytest.raises(ValueError, match=f"^{says}"):
        cnn.distort(X, rng(), fill=0, elastic=1, knots=knots)
