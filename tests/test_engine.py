"""The engine of the pages, book/assets/cnn.js, against `cnn` in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium
from hypothesis import given
from hypothesis import strategies as st

import cnn
from cnn.loss import log_softmax


ENGINE = Path(__file__).resolve().parents[1] / "book" / "assets" / "cnn.js"

# Arrays come as {shape, data} with a plain list of numbers, and go as that.
CALL = """([body, given]) => {
  const read = v => v?.shape ? cnn.array(v.shape, Float64Array.from(v.data))
    : v;
  const write = v => Array.isArray(v) ? v.map(write)
    : v?.shape ? {shape: v.shape, data: [...v.data]} : v;
  return write(new Function("given", "cnn", body)(
    Object.fromEntries(Object.entries(given).map(([k, v]) => [k, read(v)])),
    cnn));
}"""

Run = Callable[..., Any]


def packed(value: Any) -> Any:
    """An array of floats as the page takes it; all else as it is."""
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return {"shape": list(value.shape), "data": value.ravel().tolist()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def unpacked(value: Any) -> Any:
    """What a page gave, with its arrays."""
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    if isinstance(value, dict):
        return np.array(value["data"], float).reshape(value["shape"])
    return value


@pytest.fixture(scope="module")
def engine() -> Iterator[Run]:
    """Run lines of JavaScript, with arrays by name, beside the engine."""
    with chromium() as browser:
        page = browser.new_page()
        page.add_script_tag(path=ENGINE)
        yield lambda body, **given: unpacked(
            page.evaluate(
                CALL, [body, {k: packed(v) for k, v in given.items()}]
            )
        )


def same(given: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Equal, but for a tolerance: of the size of what was summed."""
    assert np.shape(given) == np.shape(expected)
    scale = max(1.0, float(np.max(np.abs(expected), initial=0)))
    assert np.allclose(given, expected, rtol=0, atol=tolerance * scale)


@st.composite
def windows(draw: Any, pooling: bool = False) -> dict[str, Any]:
    """Sizes of images, and windows that fit on them at least once."""
    one_to = lambda most: st.integers(1, most)  # noqa: E731
    kernel = draw(st.tuples(one_to(4), one_to(4)))
    most = [k // 2 if pooling else 3 for k in kernel]
    padding = tuple(draw(st.integers(0, p)) for p in most)
    least = [max(1, k - 2 * p) for k, p in zip(kernel, padding, strict=True)]
    return {
        "kernel": kernel,
        "stride": draw(st.tuples(one_to(3), one_to(3))),
        "padding": padding,
        "size": tuple(draw(st.integers(a, a + 5)) for a in least),
        "n": draw(one_to(3)),
        "channels": draw(one_to(3)),
        "filters": draw(one_to(3)),
        "rng": np.random.default_rng(draw(st.integers(0, 999))),
    }


@given(windows())
def test_convolution_forward_and_backward(engine: Run, case: Any) -> None:
    rng, shape = case["rng"], (case["n"], case["channels"], *case["size"])
    x = rng.standard_normal(shape)
    weight = rng.standard_normal(
        (case["filters"], case["channels"], *case["kernel"])
    )
    bias = rng.standard_normal(case["filters"])
    steps = {"stride": case["stride"], "padding": case["padding"]}
    y = cnn.conv2d(x, weight, bias, **steps)
    grad = rng.standard_normal(y.shape)
    result = engine(
        """const {x, weight, bias, grad, stride, padding} = given;
        return [cnn.conv2d(x, weight, bias, stride, padding),
          ...cnn.conv2d_backward(grad, x, weight, stride, padding)];""",
        **{"x": x, "weight": weight, "bias": bias, "grad": grad, **steps},
    )
    expected = y, *cnn.conv2d_backward(grad, x, weight, **steps)
    for mine, numpys in zip(result, expected, strict=True):
        same(mine, numpys)


@given(windows(pooling=True))
def test_max_pooling_with_ties(engine: Run, case: Any) -> None:
    rng, shape = case["rng"], (case["n"], case["channels"], *case["size"])
    x = rng.integers(-3, 3, shape).astype(float)  # so that many are equal
    sizes = case["kernel"], case["stride"], case["padding"]
    y = cnn.max_pool2d(x, *sizes)
    grad = rng.standard_normal(y.shape)
    result = engine(
        """const {x, grad, sizes} = given, y = cnn.max_pool2d(x, ...sizes);
        return [y, cnn.max_pool2d_backward(grad, x, y, ...sizes)];""",
        **{"x": x, "grad": grad, "sizes": sizes},
    )
    same(result[0], y, 0)
    same(result[1], cnn.max_pool2d_backward(grad, x, y, *sizes))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers())
def test_linear_relu_and_loss(
    engine: Run, n: int, features: int, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(abs(seed))
    x = rng.standard_normal((n, features)) * 10.0 ** rng.integers(-1, 5)
    x[rng.random(x.shape) < 0.2] = 0.0
    weight = rng.standard_normal((classes, features))
    bias = rng.standard_normal(classes)
    labels = rng.integers(0, classes, n)
    result = engine(
        """const {x, weight, bias, labels} = given;
        const h = cnn.relu(x), z = cnn.linear(h, weight, bias);
        const g = cnn.cross_entropy_backward(z, labels);
        const [gh, ...others] = cnn.linear_backward(g, h, weight);
        return [z, cnn.log_softmax(z), cnn.softmax(z),
          cnn.cross_entropy(z, labels), g, cnn.relu_backward(gh, x), gh,
          ...others];""",
        **{"x": x, "weight": weight, "bias": bias, "labels": labels},
    )
    h = cnn.relu(x)
    z = cnn.linear(h, weight, bias)
    g = cnn.cross_entropy_backward(z, labels)
    gh, *others = cnn.linear_backward(g, h, weight)
    expected = (
        *(z, log_softmax(z), cnn.softmax(z)),
        *(cnn.cross_entropy(z, labels), g, cnn.relu_backward(gh, x), gh),
        *others,
    )
    for mine, numpys in zip(result, expected, strict=True):
        same(mine, numpys)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_twenty_steps_with_momentum_and_decay(
    engine: Run, decay: float
) -> None:
    rng = np.random.default_rng(0)
    network = cnn.Sequential(
        cnn.Conv2d(1, 3, 3, stride=2, padding=1, rng=rng),
        cnn.ReLU(),
        cnn.Conv2d(3, 4, 2, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2, 1),
        cnn.Flatten(),
        cnn.Linear(36, 10, rng=rng),
    ).to(np.float64)
    start = [p.value.copy() for p in network.parameters()]
    x = rng.standard_normal((20, 6, 1, 9, 9))
    labels = rng.integers(0, 10, (20, 6))
    optimizer = cnn.SGD(network.parameters(), 0.05, 0.9, decay)
    losses = [
        cnn.train_step(network, optimizer, *batch)[0]
        for batch in zip(x, labels, strict=True)
    ]
    result = engine(
        """const network = new cnn.Sequential(
          new cnn.Conv2d(1, 3, 3, 2, 1), new cnn.ReLU(),
          new cnn.Conv2d(3, 4, 2), new cnn.ReLU(), new cnn.MaxPool2d(2, 1),
          new cnn.Flatten(), new cnn.Linear(36, 10));
        const parameters = network.parameters();
        parameters.forEach((p, i) => { p.value = given["start" + i]; });
        const optimizer = new cnn.SGD(parameters, 0.05, 0.9, given.decay);
        const losses = given.labels.map((labels, step) => {
          const x = given.x.data.subarray(step * 486, (step + 1) * 486);
          const logits = network.forward(cnn.array([6, 1, 9, 9], x));
          network.backward(
            cnn.cross_entropy_backward(logits, labels));
          optimizer.step();
          return cnn.cross_entropy(logits, labels);
        });
        return [losses, ...parameters.map(p => p.value)];""",
        **{"x": x, "labels": labels.tolist(), "decay": decay},
        **{f"start{i}": value for i, value in enumerate(start)},
    )
    same(result[0], losses, 1e-9)
    for mine, parameter in zip(result[1:], network.parameters(), strict=True):
        same(mine, parameter.value, 1e-9)
    assert np.abs(result[1] - start[0]).max() > 0.01


def test_a_network_backward_reaches_the_images(engine: Run) -> None:
    rng = np.random.default_rng(1)
    layer = cnn.Conv2d(2, 3, 3, padding=1, rng=rng).to(np.float64)
    x = rng.standard_normal((2, 2, 5, 4))
    network = cnn.Sequential(layer, cnn.ReLU(), cnn.MaxPool2d(2))
    grad = rng.standard_normal(network.forward(x).shape)
    mine = engine(
        """const layer = new cnn.Conv2d(2, 3, 3, 1, 1);
        layer.weight.value = given.weight;
        const network = new cnn.Sequential(
          layer, new cnn.ReLU(), new cnn.MaxPool2d(2));
        network.forward(given.x);
        return network.backward(given.grad);""",
        **{"x": x, "grad": grad, "weight": layer.weight.value},
    )
    same(mine, network.backward(grad))


def test_what_does_not_fit_is_refused(engine: Run) -> None:
    for body, message in (
        ("cnn.output_size([2, 9], 3)", "does not fit"),
        ("cnn.max_pool2d(cnn.array([1, 1, 4, 4]), 2, 2, 2)", "over half"),
        (
            "cnn.conv2d(cnn.array([1, 2, 4, 4]), cnn.array([1, 1, 2, 2]))",
            "2 channels",
        ),
        ("cnn.linear(cnn.array([1, 3]), cnn.array([2, 4]))", "3 features"),
    ):
        said = engine(f"try {{ {body} }} catch (e) {{ return e.message; }}")
        assert message in said


def test_the_engine_is_short() -> None:
    lines = ENGINE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 96
