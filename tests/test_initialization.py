"""The size of the first weights, beside PyTorch and beside a count."""

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st

from cnn import (
    Buffer,
    Conv2d,
    Layer,
    Linear,
    Parameter,
    ReLU,
    Sequential,
    conv2d,
    he_std,
    initialize,
    xavier_std,
)
from cnn.convolution import conv2d_grad_input
from cnn.initialization import fans


sizes = st.integers(1, 7)
matrices = st.tuples(sizes, sizes)
filters = st.tuples(sizes, sizes, sizes, sizes)


@given(matrices | filters)
def test_fans_agree_with_pytorch(shape):
    theirs = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert fans(shape) == theirs


@given(filters)
def test_fans_are_the_products_that_can_be_counted(shape):
    """With ones everywhere, a sum is the number of its terms."""
    f, c = shape[:2]
    x, weight = np.ones((1, c, 21, 21)), np.ones(shape)
    y = conv2d(x, weight, np.zeros(f))
    middle = y.shape[2] // 2, y.shape[3] // 2
    back = conv2d_grad_input(np.ones_like(y), weight, x.shape)
    assert fans(shape) == (y[0, 0, *middle], back[0, 0, 10, 10])


@pytest.mark.parametrize("rule", [he_std, xavier_std])
@pytest.mark.parametrize("fan", ["fan_in", "fan_out"])
def test_each_fan_is_at_least_1(rule, fan):
    with pytest.raises(ValueError, match=f"{fan} is 0; expected a whole"):
        rule(**({"fan_in": 1, "fan_out": 1} | {fan: 0}))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_fans_refuse_a_bias(shape):
    with pytest.raises(
        ValueError,
        match=in_order(
            *("fans was given", shape),
            *("expected (M, D) or (F, C, k, k)", "start it at zero"),
        ),
    ):
        fans(shape)


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (64, 32, 5, 7)])
@pytest.mark.parametrize("name", ["xavier", "he"])
def test_sizes_agree_with_pytorch(shape, name):
    """The rule's own number, taken from a large draw of PyTorch's."""
    torch.manual_seed(0)
    weight = torch.empty(shape)
    if name == "he":
        torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
    else:
        torch.nn.init.xavier_normal_(weight)
    ours = {"xavier": xavier_std, "he": he_std}[name](*fans(shape))
    # The size of n draws is uncertain by 1/sqrt(2n): here five times that.
    assert ours == pytest.approx(
        float(weight.std()), rel=5 / np.sqrt(2 * weight.numel())
    )


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_sizes_grant_their_wishes(fan_in, fan_out):
    """He: fan_in sigma^2 / 2 = 1. Xavier: the mean of both wishes is 1."""
    assert fan_in * he_std(fan_in, fan_out) ** 2 / 2 == pytest.approx(1)
    both = (fan_in + fan_out) * xavier_std(fan_in, fan_out) ** 2 / 2
    assert both == pytest.approx(1)


@pytest.mark.parametrize("shape", [(200, 300), (60, 20, 5, 5)])
@pytest.mark.parametrize("rule", [xavier_std, he_std])
def test_initialize_draws_a_normal_of_that_size(shape, rule):
    layer = Layer()
    layer.weight = Parameter(np.full(shape, np.nan, np.float32))
    initialize(layer, rule, np.random.default_rng(0))
    drawn = layer.weight.value / rule(*fans(shape))
    assert drawn.std() == pytest.approx(1, rel=5 / np.sqrt(2 * drawn.size))
    assert abs(drawn.mean()) < 5 / np.sqrt(drawn.size)
    # A normal: 68.27 % within one standard deviation, 95.45 % within two.
    for limit, share in ((1, 0.6827), (2, 0.9545)):
        assert np.mean(np.abs(drawn) < limit) == pytest.approx(
            share, abs=2.5 / np.sqrt(drawn.size)
        )


def test_initialize_sets_biases_to_zero_in_place_and_keeps_the_dtype():
    layer = Layer()
    layer.weight = weight = Parameter(np.ones((3, 4), np.float64))
    layer.bias = bias = Parameter(np.ones(3, np.float32))
    kept = weight.value, bias.value
    initialize(layer, he_std, np.random.default_rng(0))
    assert weight.value is kept[0]
    assert bias.value is kept[1]
    assert weight.value.dtype == np.float64
    assert not bias.value.any()
    assert not (weight.value == 1).any()


def test_initialize_takes_only_what_is_called_bias_for_a_bias():
    """A scale of one axis, such as a normalisation has, is none."""
    layer = Layer()
    layer.scale = Parameter(np.ones(3))
    layer.bias = Parameter(np.ones(3))
    layer.mean = Buffer(np.ones((3, 3)))
    network = Sequential(Linear(3, 3, rng=np.random.default_rng(0)), layer)
    before = network.state_dict()
    initialize(network, he_std, np.random.default_rng(1))
    after = network.state_dict()
    for name in ("1.scale", "1.mean"):
        assert np.array_equal(after[name], before[name])
    assert not after["1.bias"].any()
    assert not np.array_equal(after["0.weight"], before["0.weight"])


def test_initialize_gives_each_rule_both_fans_in_order():
    asked = []

    def rule(fan_in, fan_out):
        asked.append((fan_in, fan_out))
        return 1.0

    layer = Conv2d(2, 5, (3, 4), rng=np.random.default_rng(0))
    initialize(layer, rule, np.random.default_rng(0))
    assert asked == [(2 * 12, 5 * 12)]


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: Linear(37, 11, rng=rng),
        lambda rng: Conv2d(3, 8, 5, rng=rng),
        lambda rng: Conv2d(2, 4, (1, 3), stride=2, padding=1, rng=rng),
    ],
)
def test_layers_draw_what_initialize_with_he_draws(make):
    drawn = make(np.random.default_rng(7))
    again = make(np.random.default_rng(0))
    initialize(again, he_std, np.random.default_rng(7))
    assert drawn.weight.value.dtype == np.float32
    assert np.array_equal(drawn.weight.value, again.weight.value)
    assert not drawn.bias.value.any()


def size(x):
    return float(np.sqrt(np.mean(x**2)))


@pytest.mark.parametrize(
    ("rule", "factor"), [(he_std, 1.0), (xavier_std, np.sqrt(0.5))]
)
def test_a_deep_stack_changes_sizes_as_derived(rule, factor):
    """Eight layers of 400 with ReLU: the step from layer to layer."""
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(8):
        layers += [Linear(400, 400, rng=rng), ReLU()]
    initialize(Sequential(*layers), rule, rng)
    x = rng.standard_normal((100, 400)).astype(np.float32)
    grad = rng.standard_normal((100, 400)).astype(np.float32)
    y, back = x, grad
    for layer in layers:
        y = layer.forward(y)
    for layer in reversed(layers):
        back = layer.backward(back)
    assert (size(y) / size(x)) ** (1 / 8) == pytest.approx(factor, rel=0.05)
    assert (size(back) / size(grad)) ** (1 / 8) == pytest.approx(
        factor, rel=0.05
    )


def test_a_filter_bank_keeps_the_size_of_its_input():
    """The window belongs to the fan-in: C k k, not C and not F."""
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        layer = Conv2d(8, 32, 5, rng=rng)
        initialize(layer, he_std, rng)
        x = rng.standard_normal((4, 8, 12, 12))
        y = np.maximum(layer.forward(x), 0)
        ratios.append((size(y) / size(x)) ** 2)
    assert np.mean(ratios) == pytest.approx(1, rel=0.1)


def test_equal_units_stay_equal():
    """What the chapter proves, for three layers and twenty steps."""
    rng = np.random.default_rng(0)
    layers = [
        Linear(5, 4, rng=rng).to(np.float64),
        ReLU(),
        Linear(4, 3, rng=rng).to(np.float64),
    ]
    for layer in (layers[0], layers[2]):  # of the right size, but equal
        layer.weight.value[...] = he_std(*fans(layer.weight.value.shape))
    x, target = rng.standard_normal((6, 5)), rng.standard_normal((6, 3))
    for _ in range(20):
        y = x
        for layer in layers:
            y = layer.forward(y)
        grad = y - target
        for layer in reversed(layers):
            grad = layer.backward(grad)
        for p in layers[0].parameters() + layers[2].parameters():
            p.value -= 0.05 * p.grad
    first, last = layers[0].weight.value, layers[2].weight.value
    assert np.abs(first - he_std(5, 4)).max() > 0.01  # they did move
    np.testing.assert_allclose(first, first[[0] * 4], rtol=1e-12)
    np.testing.assert_allclose(last, last[:, [0] * 4], rtol=1e-12)
