"""ONNX's own test cases, read out of its package and computed by `cnn`.

A case is expressed where each of its nodes is one function of `cnn`, whose
arguments and results are only reshaped, transposed, selected or turned into
other units. What cannot be said so raises `CannotExpress` with a reason.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from cnn import (
    SGD,
    Flatten,
    Nesterov,
    Parameter,
    conv2d,
    cross_entropy,
    linear,
    max_pool2d,
    max_pool2d_backward,
    relu,
    softmax,
)
from cnn.beyond.augmentation import affine_grid, grid_sample
from cnn.convolution import conv2d_grad_input
from cnn.loss import log_softmax
from cnn.windows import Pair, col2im, from_chwn, im2col, pad, to_chwn


Attributes = dict[str, Any]
Arrays = tuple[np.ndarray, ...]


class CannotExpress(Exception):  # noqa: N818 (it is no error)
    """The package has no words for this; the message says for what."""


# ---------------------------------------------------------------- Windows


@dataclass(frozen=True)
class Windows:
    """How a node's windows lie, as `cnn` takes it, and its x as images."""

    x: np.ndarray  # (N, C, H, W)
    kernel: Pair
    stride: Pair
    padding: Pair
    line: bool  # x was (N, C, W): an image of one row

    def back(self, y: np.ndarray) -> np.ndarray:
        """An output in the node's own shape."""
        return y[:, :, 0] if self.line else y


def windows(a: Attributes, x: np.ndarray, kernel: Iterable[int]) -> Windows:
    """Read ONNX's attributes; CannotExpress where `cnn` has none for them."""
    size, kernel = x.shape[2:], tuple(kernel)
    axes = len(size)
    if axes > 2:
        raise CannotExpress("three spatial axes")
    if any(d != 1 for d in a.get("dilations", ())):
        raise CannotExpress("dilation")
    if a.get("group", 1) != 1:
        raise CannotExpress("groups of channels")
    stride = tuple(a.get("strides", (1,) * axes))
    pads = a.get("pads", (0,) * 2 * axes)
    before, after = tuple(pads[:axes]), tuple(pads[axes:])
    if a.get("auto_pad", b"NOTSET").startswith(b"SAME"):
        wanted = [
            max((math.ceil(h / s) - 1) * s + k - h, 0)
            for h, k, s in zip(size, kernel, stride, strict=True)
        ]
        before = tuple(w // 2 for w in wanted)
        after = tuple(w - w // 2 for w in wanted)
    if before != after:
        raise CannotExpress("sides padded differently")
    if a.get("ceil_mode", 0):
        for h, k, s, p in zip(size, kernel, stride, before, strict=True):
            rest = (h + 2 * p - k) % s
            one_more = (h + 2 * p - k) // s + 1  # where it would start, in s
            if rest and one_more * s < h + p:
                raise CannotExpress("windows that reach out (ceil_mode)")
    if axes == 1:
        one_row = x[:, :, np.newaxis], (1, *kernel), (1, *stride), (0, *before)
        return Windows(*one_row, line=True)
    return Windows(x, kernel, stride, before, line=False)


# ------------------------------------------------------------- Operations


def conv(
    a: Attributes, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None
) -> Arrays:
    at = windows(a, x, w.shape[2:])
    weight = w[:, :, np.newaxis] if at.line else w
    bias = np.zeros(len(w), x.dtype) if b is None else b
    return (at.back(conv2d(at.x, weight, bias, at.stride, at.padding)),)


def conv_integer(
    a: Attributes,
    x: np.ndarray,
    w: np.ndarray,
    x_zero: np.ndarray | float = 0.0,
    w_zero: np.ndarray | None = None,  # (F,)
) -> Arrays:
    """Float64 holds all these integers exactly."""
    weight = w.astype(float)
    if w_zero is not None:
        weight -= w_zero.reshape(-1, 1, 1, 1)
    (y,) = conv(a, x.astype(float) - x_zero, weight)
    return (y.astype(np.int32),)


def conv_transpose(
    a: Attributes, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None
) -> Arrays:
    """The gradient to the input of the convolution with the same filters."""
    size, axes = x.shape[2:], x.ndim - 2
    stride = a.get("strides", (1,) * axes)
    pads = a.get("pads", (0,) * 2 * axes)
    extra = a.get("output_padding", (0,) * axes)
    whole = [
        s * (h - 1) + k
        for h, k, s in zip(size, w.shape[2:], stride, strict=True)
    ]
    if a.get("auto_pad", b"NOTSET").startswith(b"SAME"):
        total = [
            n - h * s for n, h, s in zip(whole, size, stride, strict=True)
        ]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    at = windows(a | {"pads": pads, "auto_pad": b"NOTSET"}, x, w.shape[2:])
    result = a.get("output_shape") or [
        n - 2 * p + e for n, p, e in zip(whole, pads, extra, strict=False)
    ]
    if at.line:
        w, result = w[:, :, np.newaxis], [1, *result]
    shape = len(x), w.shape[1], *result
    y = at.back(conv2d_grad_input(at.x, w, shape, at.stride, at.padding))
    if b is not None:
        y = y + b.reshape(-1, *(1,) * axes)
    return (y,)


def max_pool(a: Attributes, x: np.ndarray) -> Arrays:
    if x.dtype == np.uint8:  # float64 holds them exactly
        y, whence = max_pool(a, x.astype(float))
        return y.astype(x.dtype), whence
    at = windows(a, x, a["kernel_shape"])
    if any(2 * p > k for p, k in zip(at.padding, at.kernel, strict=True)):
        raise CannotExpress("padded by more than half a window")
    settings = at.kernel, at.stride, at.padding
    y = max_pool2d(at.x, *settings)
    # Whence each maximum came: where its gradient goes.
    order = "F" if a.get("storage_order", 0) else "C"
    whence = np.empty(y.shape, np.int64)
    if a["outputs"] > 1:
        for place in np.ndindex(y.shape):
            grad = np.zeros_like(y)
            grad[place] = 1
            grad = max_pool2d_backward(grad, at.x, y, *settings)
            n, c, *pixel = (axis.item() for axis in grad.nonzero())
            whence[place] = (n * x.shape[1] + c) * math.prod(
                at.x.shape[2:]
            ) + np.ravel_multi_index(pixel, at.x.shape[2:], order=order)
    return at.back(y), at.back(whence)


def max_unpool(
    a: Attributes,
    y: np.ndarray,
    whence: np.ndarray,
    output_shape: np.ndarray | None = None,
) -> Arrays:
    """The way back: each number goes to where the largest one stood."""
    at = windows(a, y, a["kernel_shape"])
    lying = zip(y.shape[2:], at.kernel, at.stride, strict=True)
    height, width = ((n - 1) * s + k for n, k, s in lying)
    if any(at.padding):
        raise CannotExpress("padding")
    read = np.zeros((*y.shape[:2], height, width), y.dtype)
    read.flat[whence] = 1
    # Rows that no window reads may follow.
    shape = read.shape if output_shape is None else output_shape
    x = np.zeros(shape, y.dtype)
    x[:, :, :height, :width] = read
    there = max_pool2d_backward(y, x, np.ones_like(y), at.kernel, at.stride)
    return (there,)


def average_pool(a: Attributes, x: np.ndarray) -> Arrays:
    """A convolution of each channel, by itself, with equal weights."""
    at = windows(a, x, a["kernel_shape"])
    if any(at.padding) and not a.get("count_include_pad", 0):
        raise CannotExpress("means that leave the frame out")
    n, c, *size = at.x.shape
    weight = np.full((1, 1, *at.kernel), 1 / math.prod(at.kernel), x.dtype)
    y = conv2d(
        at.x.reshape(n * c, 1, *size),
        weight,
        np.zeros(1, x.dtype),
        at.stride,
        at.padding,
    )
    return (at.back(y.reshape(n, c, *y.shape[2:])),)


def whole_image(pool: Callable[..., Arrays]) -> Callable[..., Arrays]:
    def pool_all(a: Attributes, x: np.ndarray) -> Arrays:
        return pool({**a, "kernel_shape": x.shape[2:]}, x)

    return pool_all


def gemm(
    a: Attributes, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None
) -> Arrays:
    x = x.T if a.get("transA", 0) else x
    w = w if a.get("transB", 0) else w.T  # (D, M) -> (M, D)
    bias = np.zeros((1, len(w)), x.dtype) if b is None else np.atleast_2d(b)
    if len(bias) > 1:
        raise CannotExpress("a bias for each row")
    alpha, beta = (np.array(a.get(n, 1), x.dtype) for n in ("alpha", "beta"))
    return (linear(alpha * x, w, np.broadcast_to(beta * bias[0], len(w))),)


def matmul(_: Attributes, x: np.ndarray, w: np.ndarray) -> Arrays:
    shape = np.matmul(x, w).shape
    if x.ndim == 1:
        x, w = x[np.newaxis], w[:, np.newaxis] if w.ndim == 1 else w
        w = np.moveaxis(w, -2, -1).reshape(-1, x.size)
    elif w.ndim <= 2:
        x = x.reshape(-1, x.shape[-1])
        w = np.atleast_2d(w.T)
    else:
        raise CannotExpress("a matrix for each image")
    return (linear(x, w, np.zeros(len(w), x.dtype)).reshape(shape),)


def matmul_integer(
    a: Attributes,
    x: np.ndarray,
    w: np.ndarray,
    x_zero: np.ndarray,
    w_zero: np.ndarray,
) -> Arrays:
    x, w = x.astype(float) - x_zero, w.astype(float) - w_zero
    return (matmul(a, x, w)[0].astype(np.int32),)


def along_axis(
    operation: Callable[[np.ndarray], np.ndarray],
) -> Callable[..., Arrays]:
    """Softmax and its logarithm, of the rows along any axis."""

    def rows(a: Attributes, z: np.ndarray) -> Arrays:
        if a["opset"] < 13:  # all axes from this one on are one row
            flat = z.reshape(math.prod(z.shape[: a["axis"]]), -1)
            return (operation(flat).reshape(z.shape),)
        moved = np.moveaxis(z, a.get("axis", -1), -1)
        p = operation(moved.reshape(-1, moved.shape[-1]))
        return (np.moveaxis(p.reshape(moved.shape), -1, a.get("axis", -1)),)

    return rows


def softmax_cross_entropy(
    a: Attributes,
    z: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
) -> Arrays:
    if weights is not None:
        raise CannotExpress("weights of the classes")
    rows, flat = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1]), labels.ravel()
    log_p = log_softmax(rows).reshape(np.moveaxis(z, 1, -1).shape)
    counted = flat != a["ignore_index"] if "ignore_index" in a else slice(None)
    rows, kept = rows[counted], flat[counted]
    reduction = a.get("reduction", b"mean")
    if reduction == b"none":
        loss = np.zeros(flat.shape, z.dtype)
        loss[counted] = [
            cross_entropy(rows[i : i + 1], kept[i : i + 1])
            for i in range(len(kept))
        ]
        loss = loss.reshape(labels.shape)
    else:
        times = len(kept) if reduction == b"sum" else 1
        loss = np.array(times * cross_entropy(rows, kept), z.dtype)
    return loss, np.moveaxis(log_p, -1, 1)


def negative_log_likelihood(
    a: Attributes,
    log_p: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
) -> Arrays:
    """Of logarithms of probabilities, log_softmax changes nothing."""
    if weights is None and not np.allclose(np.exp(log_p).sum(axis=1), 1):
        raise CannotExpress("log-probabilities whose sum is not 1")
    return softmax_cross_entropy(a, log_p, labels, weights)


def flatten(a: Attributes, x: np.ndarray) -> Arrays:
    axis = a.get("axis", 1) % x.ndim
    images = x.reshape(math.prod(x.shape[:axis]), *x.shape[axis:])
    while images.ndim < 4:
        images = images[..., np.newaxis]
    n, c, h, *rest = images.shape
    return (Flatten().forward(images.reshape(n, c, h, math.prod(rest))),)


def columns_to_image(
    a: Attributes, columns: np.ndarray, size: np.ndarray, kernel: np.ndarray
) -> Arrays:
    n, rows, _ = columns.shape
    channels = rows // math.prod(kernel.tolist())
    x = np.zeros((n, channels, *size.tolist()))
    at = windows(a, x, kernel.tolist())
    matrix = columns.transpose(1, 2, 0).reshape(rows, -1)
    return (col2im(matrix, x.shape, at.kernel, at.stride, at.padding),)


def space_to_depth(a: Attributes, x: np.ndarray) -> Arrays:
    """Windows side by side: im2col copies each pixel once."""
    n, c, h, w = x.shape
    k = a["blocksize"]
    blocks = im2col(x, k, k).reshape(c, k, k, h // k, w // k, n)
    order = (0, 1, 2) if a.get("mode") == b"CRD" else (1, 2, 0)
    return (blocks.transpose(5, *order, 3, 4).reshape(n, -1, h // k, w // k),)


def depth_to_space(a: Attributes, x: np.ndarray) -> Arrays:
    n, depth, h, w = x.shape
    k = a["blocksize"]
    c = depth // k**2
    crd = a.get("mode") == b"CRD"
    blocks = x.reshape(n, *((c, k, k) if crd else (k, k, c)), h, w)
    order = (1, 2, 3) if crd else (3, 1, 2)
    columns = blocks.transpose(*order, 4, 5, 0).reshape(c * k * k, -1)
    return (col2im(columns, (n, c, h * k, w * k), k, k),)


def pad_node(a: Attributes, x: np.ndarray, *given: np.ndarray) -> Arrays:
    if a.get("mode", b"constant") != b"constant":
        raise CannotExpress("padding with other than one number")
    pads = np.zeros((2, x.ndim), int)  # before, after
    axes = given[2] if len(given) > 2 else range(x.ndim)
    pads[:, axes] = np.reshape(a["pads"] if not given else given[0], (2, -1))
    if (pads[0] != pads[1]).any() or pads[:, :2].any():
        raise CannotExpress("sides padded differently")
    value = given[1].item() if len(given) > 1 else a.get("value", 0.0)
    return (from_chwn(pad(to_chwn(x), tuple(pads[0, 2:].tolist()), value)),)


def momentum(
    a: Attributes, lr: np.ndarray, step: np.ndarray, *arrays: np.ndarray
) -> Arrays:
    if step > 0 and a["beta"] != 1:
        raise CannotExpress("a weight of the gradient")
    count = len(arrays) // 3
    parameters = [Parameter(x.copy()) for x in arrays[:count]]
    make = {b"standard": SGD, b"nesterov": Nesterov}[a["mode"]]
    sgd = make(parameters, float(lr), a["alpha"], a["norm_coefficient"])
    for p, grad in zip(parameters, arrays[count : 2 * count], strict=True):
        p.grad = grad
    sgd.velocities = [v.copy() for v in arrays[2 * count :]]
    sgd.step()
    return (*(p.value for p in parameters), *sgd.velocities)


def pixels_per_unit(a: Attributes, size: Iterable[int]) -> np.ndarray:
    """ONNX's places run from -1 to 1; ours are pixels. (rows, columns)."""
    aligned = a.get("align_corners", 0)
    return np.array([(n - 1 if aligned else n) / 2 for n in size])


def grid_sample_node(a: Attributes, x: np.ndarray, grid: np.ndarray) -> Arrays:
    if x.ndim > 4:
        raise CannotExpress("three spatial axes")
    if a.get("mode", b"linear") not in (b"linear", b"bilinear"):
        raise CannotExpress("other interpolation than between four pixels")
    if a.get("padding_mode", b"zeros") != b"zeros":
        raise CannotExpress("padding with other than one number")
    size = x.shape[2:]
    places = (
        grid[..., 1 - axis] * unit + (n - 1) / 2
        for axis, (n, unit) in enumerate(
            zip(size, pixels_per_unit(a, size), strict=True)
        )
    )
    return (grid_sample(x, *places, fill=0.0),)


def affine_grid_node(a: Attributes, theta: np.ndarray, size: Any) -> Arrays:
    if len(size) > 4:
        raise CannotExpress("three spatial axes")
    h, w = size[2:].tolist()
    unit = pixels_per_unit(a, (h, w))
    theta = theta[:, ::-1].astype(float)  # (y, x) of (x, y, 1)
    matrices = unit[:, np.newaxis] * theta[:, :, 1::-1] / unit
    places = affine_grid(matrices, unit * theta[:, :, 2], (h, w))
    centre = ((h - 1) / 2, (w - 1) / 2)
    y, x = (
        (place - c) / u
        for place, c, u in zip(places, centre, unit, strict=True)
    )
    return (np.stack([x, y], axis=-1).astype(np.float32),)


OPERATIONS: dict[str, Callable[..., Arrays]] = {
    "AffineGrid": affine_grid_node,
    "AveragePool": average_pool,
    "Col2Im": columns_to_image,
    "Conv": conv,
    "ConvInteger": conv_integer,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": whole_image(average_pool),
    "GlobalMaxPool": whole_image(max_pool),
    "GridSample": grid_sample_node,
    "LogSoftmax": along_axis(log_softmax),
    "MatMul": matmul,
    "MatMulInteger": matmul_integer,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "Momentum": momentum,
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "Pad": pad_node,
    "Relu": lambda _, x: (relu(x),),
    "Softmax": along_axis(softmax),
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
    "SpaceToDepth": space_to_depth,
}

# What only moves numbers may stand between them.
MOVES: dict[str, Callable[..., Arrays]] = {
    "Constant": lambda a: (numpy_helper.to_array(a["value"]),),
    "Squeeze": lambda a, x: (x.squeeze(tuple(a["axes"])),),
    "Transpose": lambda a, x: (x.transpose(a["perm"]),),
    "Unsqueeze": lambda a, x: (np.expand_dims(x, tuple(a["axes"])),),
}


# ------------------------------------------------------------------ Cases

# What shall come out of these is given with four digits.
ROUNDED = ["test_averagepool_2d_ceil_last_window_starts_on_pad"]


@dataclass(frozen=True)
class Case:
    """One test case of ONNX: a graph, inputs, and what shall come out."""

    name: str
    model: onnx.ModelProto
    data: Any  # (inputs, outputs), or the folder that holds them

    def operations(self) -> list[str]:
        """The operations of its graph, each once, in the order of use."""
        return list(dict.fromkeys(n.op_type for n in self.model.graph.node))

    def lacks(self) -> list[str]:
        """The operations that the package does not have."""
        found = [o for o in self.operations() if o not in OPERATIONS | MOVES]
        ours = any(o in OPERATIONS for o in self.operations())
        return found if found or ours else self.operations()

    def arrays(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        if not isinstance(self.data, Path):
            return self.data
        both = []
        for kind in ("input", "output"):
            count = len(list(self.data.glob(f"{kind}_*.pb")))
            files = [self.data / f"{kind}_{i}.pb" for i in range(count)]
            protos = [onnx.load_tensor(file) for file in files]
            both.append([numpy_helper.to_array(proto) for proto in protos])
        return both[0], both[1]

    def run(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each output as `cnn` computes it, beside ONNX's."""
        graph = self.model.graph
        inputs, outputs = self.arrays()
        known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        free = (i.name for i in graph.input if i.name not in known)
        known |= dict(zip(free, inputs, strict=True))
        for node in graph.node:
            attributes = {
                a.name: helper.get_attribute_value(a) for a in node.attribute
            } | {
                "outputs": len(node.output),
                "opset": self.model.opset_import[0].version,
            }
            given = [known[name] if name else None for name in node.input]
            operation = (OPERATIONS | MOVES)[node.op_type]
            results = operation(attributes, *given)
            known |= dict(zip(node.output, results, strict=False))
        names = [output.name for output in graph.output]
        return [
            (known[name], expected)
            for name, expected in zip(names, outputs, strict=True)
        ]

    def difference(self) -> str:
        """Where `cnn` and ONNX differ; nothing where they are equal."""
        rtol, atol = (1e-5, 1e-6) if self.name not in ROUNDED else (1e-3, 0)
        for ours, expected in self.run():
            kinds = [(a.shape, a.dtype) for a in (ours, expected)]
            if kinds[0] != kinds[1]:
                return f"{kinds[0]}, not {kinds[1]}"
            if not np.allclose(ours, expected, rtol, atol):
                return f"off by up to {np.abs(ours - expected).max()}"
        return ""


def load_cases() -> dict[str, Case]:
    """All cases in the installed package whose outputs are in it."""
    np.random.seed(0)  # noqa: NPY002 (ONNX draws inputs when it is asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of infinities that are meant
        found = list(load_model_tests(kind="node"))
    cases = [Case(c.name, c.model, c.data_sets[0]) for c in found]
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for c in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            folder = Path(c.model_dir)
            model = onnx.load(folder / "model.onnx")
            data = folder / "test_data_set_0"
            name = f"{kind}/{c.name}"
            cases.append(Case(name, model, data))
    return {case.name: case for case in cases}


@dataclass
class Tally:
    """What became of the cases: their names, by operation."""

    equal: dict[str, list[str]]
    cannot: dict[tuple[str, str], list[str]]  # by operation and reason
    lacking: dict[str, list[str]]  # by the first that the package lacks
    wrong: dict[str, str]  # how, by the name of the case

    def of(self, operation: str) -> int:
        """How many cases of an operation the package cannot express."""
        found = (n for (o, _), n in self.cannot.items() if o == operation)
        return sum(map(len, found))

    def for_the(self, reason: str) -> int:
        """How many cases it cannot express for this reason."""
        found = (n for (_, r), n in self.cannot.items() if r == reason)
        return sum(map(len, found))

    def __str__(self) -> str:
        lines = [f"{'':28}equal   not expressed"]
        for operation in OPERATIONS:
            equal = len(self.equal.get(operation, []))
            lines.append(f"{operation:28}{equal:5}{self.of(operation):16}")
            for (o, reason), names in self.cannot.items():
                if o == operation:
                    lines.append(f"    {reason}: {', '.join(names)}")
        lines.append("operations that the package lacks, and their cases:")
        for o, names in sorted(self.lacking.items()):
            lines.append(f"    {o}: {len(names)}")
        return "\n".join(lines)


def tally(cases: Iterable[Case]) -> Tally:
    """Run every case."""
    equal, cannot, lacking = (defaultdict(list) for _ in range(3))
    wrong = {}
    for case in cases:
        if lacks := case.lacks():
            lacking[lacks[0]].append(case.name)
            continue
        operation = next(o for o in case.operations() if o in OPERATIONS)
        try:
            difference = case.difference()
        except CannotExpress as reason:
            cannot[operation, str(reason)].append(case.name)
        except Exception as error:
            wrong[case.name] = repr(error)
        else:
            if difference:
                wrong[case.name] = difference
            else:
                equal[operation].append(case.name)
    return Tally(equal, cannot, lacking, wrong)
