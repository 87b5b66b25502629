"""Nesterov, RMSprop, Adam, AdamW: step for step beside PyTorch."""

import copy
import inspect
import json
import math

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st
from short_training import FEW, HELD_OUT, bits
from test_optimizer import shapes
from toys import (
    normalised_convolutions,
    seed_network,
    steps_beside_torch,
    to_torch,
    two_convolutions,
)

from cnn import (
    SGD,
    Adam,
    AdamW,
    Nesterov,
    ParallelStep,
    Parameter,
    RMSprop,
    train,
    train_step,
)
from cnn.beyond.adam import follow
from cnn.training import Checkpoint


seeds = st.integers(0, 2**32 - 1)
rates = st.floats(1e-4, 0.1)
shares = st.just(0.0) | st.floats(0.01, 0.999)
# Divided by its own size alone, a gradient that nearly vanishes makes any
# rounding large, in PyTorch as well.
of_squares = st.floats(0.5, 0.999)
decays = st.just(0.0) | st.floats(1e-4, 0.5)
epsilons = st.sampled_from([1e-8, 1e-3])


def side_by_side(ours, theirs, seed, steps=20):
    """Steps of drawn gradients, the learning rate halved half way."""
    rng = np.random.default_rng(seed)
    # Each parameter has gradients of a size of its own, some of them zero.
    sizes = 10.0 ** rng.integers(-3, 3, len(ours.parameters))
    (group,) = theirs.param_groups
    for step in range(steps):
        if step == steps // 2:
            ours.lr /= 2
            group["lr"] /= 2
        for p, q, size in zip(
            ours.parameters, group["params"], sizes, strict=True
        ):
            p.grad = size * rng.standard_normal(p.value.shape)
            if ours.weight_decay == 0:
                p.grad[rng.random(p.grad.shape) < 0.2] = 0
            q.grad = torch.tensor(p.grad)
        ours.step()
        theirs.step()
        for p, q in zip(ours.parameters, group["params"], strict=True):
            expected = q.detach().numpy()
            np.testing.assert_allclose(
                p.value, expected, rtol=1e-10, atol=1e-10
            )


def pairs(shapes, seed):
    """Parameters, and the same for PyTorch."""
    rng = np.random.default_rng(seed)
    starts = [rng.standard_normal(shape) for shape in shapes]
    ours = [Parameter(w.copy()) for w in starts]
    return ours, [torch.nn.Parameter(torch.tensor(w)) for w in starts]


@given(shapes, seeds, rates, st.floats(0.01, 0.99), decays)
def test_nesterov_is_that_of_pytorch(shapes, seed, lr, momentum, decay):
    ours, theirs = pairs(shapes, seed)
    reference = torch.optim.SGD(
        theirs, lr, momentum, weight_decay=decay, nesterov=True
    )
    side_by_side(Nesterov(ours, lr, momentum, decay), reference, seed)


@given(shapes, seeds, rates, of_squares, epsilons, decays, shares)
def test_rmsprop_is_that_of_pytorch(
    shapes, seed, lr, alpha, eps, decay, momentum
):
    ours, theirs = pairs(shapes, seed)
    options = lr, alpha, eps, decay, momentum  # in PyTorch's order
    reference = torch.optim.RMSprop(theirs, *options)
    side_by_side(RMSprop(ours, *options), reference, seed)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@given(shapes, seeds, rates, st.tuples(shares, of_squares), epsilons, decays)
def test_adam_is_that_of_pytorch(name, shapes, seed, lr, betas, eps, decay):
    ours, theirs = pairs(shapes, seed)
    options = lr, betas, eps, decay
    make = {"Adam": Adam, "AdamW": AdamW}[name]
    reference = getattr(torch.optim, name)(theirs, *options)
    side_by_side(make(ours, *options), reference, seed)


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (RMSprop, torch.optim.RMSprop),
        (Adam, torch.optim.Adam),
        (lambda p: AdamW(p, weight_decay=0.01), torch.optim.AdamW),
    ],
)
def test_the_defaults_are_those_of_pytorch(make, reference):
    ours, theirs = pairs([(3, 2), (4,)], 0)
    side_by_side(make(ours), reference(theirs), 0)


OPTIMIZERS = {
    "Nesterov": (
        lambda p: Nesterov(p, 0.05, 0.9, 1e-3),
        lambda p: torch.optim.SGD(p, 0.05, 0.9, 0, 1e-3, nesterov=True),
    ),
    "RMSprop": (
        lambda p: RMSprop(p, 0.003, momentum=0.5),
        lambda p: torch.optim.RMSprop(p, 0.003, momentum=0.5),
    ),
    "Adam": (
        lambda p: Adam(p, 0.01, weight_decay=1e-3),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-3),
    ),
    "AdamW": (
        lambda p: AdamW(p, 0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@each_optimizer
@pytest.mark.parametrize(
    ("build", "shape", "classes"),
    [
        (two_convolutions, (2, 9, 9), 5),
        (normalised_convolutions, (2, 6, 6), 3),
    ],
)
def test_fifty_steps_of_a_network_stay_beside_pytorch(
    name, build, shape, classes
):
    network = build()
    twin = to_torch(network)
    steps_beside_torch(
        network, twin, (8, *shape), classes, OPTIMIZERS[name], within=1e-8
    )
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        # A bias before a normalisation has no gradient but rounding, and
        # that is no longer small when it is divided by its own size.
        moved = np.abs(q.grad.numpy()).max() > 1e-12
        if moved:
            assert np.allclose(p.value, q.detach(), atol=1e-8)


# --- what the chapter derives -----------------------------------------------


@given(seeds, st.floats(0, 0.99), st.integers(1, 30))
def test_a_running_mean_is_a_sum_with_weights_that_lack_beta_to_the_t(
    seed, beta, t
):
    g = np.random.default_rng(seed).standard_normal((t, 3))
    mean, ones = np.zeros(3), np.zeros(1)
    for row in g:
        follow(mean, row, beta)
        follow(ones, np.ones(1), beta)
    weights = (1 - beta) * beta ** np.arange(t)[::-1]
    assert np.allclose(mean, weights @ g, atol=1e-12)
    assert ones[0] == pytest.approx(1 - beta**t)


@pytest.mark.parametrize("make", [Adam, AdamW])
@given(seeds, st.tuples(shares, shares), st.floats(1e-6, 1e6))
def test_the_first_step_is_the_learning_rate_times_the_sign(
    make, seed, betas, unit
):
    w = Parameter(np.zeros(5))
    w.grad = unit * np.random.default_rng(seed).uniform(0.1, 1, 5)
    w.grad[:2] *= -1
    make([w], 0.1, betas, eps=1e-300).step()
    assert np.allclose(w.value, -0.1 * np.sign(w.grad), rtol=1e-12)


@pytest.mark.parametrize("make", [RMSprop, Adam, AdamW])
@pytest.mark.parametrize("unit", [1e-5, 1e-2, 1e4])
def test_the_unit_of_the_gradient_does_not_matter(make, unit):
    """With eps inside of the root, it would."""
    ends = []
    for scale in (1.0, unit):
        rng, w = np.random.default_rng(0), Parameter(np.ones(6))
        optimizer = make([w], 0.01, eps=1e-9)
        for _ in range(20):
            w.grad = scale * np.sign(rng.standard_normal(6))
            w.grad *= rng.uniform(1, 2, 6)
            optimizer.step()
        ends.append(w.value)
    assert np.allclose(*ends, rtol=1e-3)


@given(seeds, st.sampled_from([(0.9, 0.999), (0.5, 0.75), (0.9, 0.9)]))
def test_no_step_is_longer_than_derived(seed, betas):
    one, two = betas
    rng, w = np.random.default_rng(seed), Parameter(np.zeros(20))
    optimizer = Adam([w], 1.0, betas, eps=1e-300)
    for t in range(1, 60):
        a = (1 - one) * one ** np.arange(t) / (1 - one**t)
        b = (1 - two) * two ** np.arange(t) / (1 - two**t)
        w.grad = rng.standard_normal(20) * 10 ** rng.uniform(-3, 3, 20)
        before = w.value.copy()
        optimizer.step()
        longest = np.sqrt((a**2 / b).sum())
        assert (np.abs(w.value - before) <= longest * (1 + 1e-9)).all()


@pytest.mark.parametrize("share", [0.99, 1.01])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_nesterov_has_its_cliff_where_it_is_derived(share, momentum):
    w = Parameter(np.ones(1))
    lr = share * 2 * (1 + momentum) / (1 + 2 * momentum) / 7
    optimizer = Nesterov([w], lr, momentum)
    for _ in range(2000):
        w.grad = 7 * w.value
        optimizer.step()
    assert (abs(w.value[0]) < 1e-6) == (share < 1)


def test_nesterov_is_momentum_that_asks_further_on():
    """By the form that is awkward: w is kept, and asked is at u."""
    curvature, lr, mu = np.array([1.0, 7.0]), 0.05, 0.8
    w, v = np.array([3.0, -2.0]), np.zeros(2)
    p = Parameter(w.copy())
    optimizer = Nesterov([p], lr, mu)
    for _ in range(30):
        u = w - lr * mu * v
        np.testing.assert_allclose(p.value, u, rtol=1e-12)
        p.grad = curvature * p.value
        optimizer.step()
        v = mu * v + curvature * u
        w = w - lr * v


def test_decay_of_adamw_knows_nothing_of_gradients():
    w = Parameter(np.ones(4))
    optimizer = AdamW([w], 0.1, weight_decay=0.5)
    twin = Parameter(np.ones(4))
    plain = Adam([twin], 0.1)
    w.grad = twin.grad = np.array([1e-3, 1.0, 1e3, 0.0])
    optimizer.step()
    plain.step()
    assert np.allclose(twin.value - w.value, 0.05, atol=1e-12)
    # The mean and its square have not heard of it.
    assert np.array_equal(optimizer.velocities[0], plain.velocities[0])
    assert np.array_equal(optimizer.squares[0], plain.squares[0])


def test_decay_of_adam_goes_through_the_division():
    w = Parameter(np.array([1.0, -5.0, 0.0]))
    Adam([w], 0.1, weight_decay=1e-3).step()  # its grad is zero
    assert np.allclose(w.value, [0.9, -4.9, 0], atol=1e-5)


# --- as an optimizer of the package -----------------------------------------


@each_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_is_in_place_and_keeps_dtype_and_grad(name, dtype):
    values = [np.ones((2, 3), dtype), np.ones(4, dtype)]
    parameters = [Parameter(value) for value in values]
    for p in parameters:
        p.grad = np.full_like(p.value, 0.5)
    optimizer = OPTIMIZERS[name][0](parameters)
    optimizer.step()
    optimizer.step()
    kept = optimizer.velocities + getattr(optimizer, "squares", [])
    for p, value in zip(parameters, values, strict=True):
        assert p.value is value
        assert p.value.dtype == dtype
        assert (p.value < 1).all()
        assert (p.grad == 0.5).all()
        assert all(p.grad is not array for array in kept)
    assert {array.dtype for array in kept} == {np.dtype(dtype)}


def train_on(path, epochs, make):
    """A run with a checkpoint; what it ended in, bit by bit."""
    rng = np.random.default_rng(3)
    network = seed_network(rng, 4, np.float32)
    optimizer = make(network.parameters())
    history = train(
        *(network, optimizer, FEW, HELD_OUT),
        **{"epochs": epochs, "batch_size": 32, "rng": rng},
        checkpoint=path,
    )
    state = [
        array.tobytes()
        for kept in vars(optimizer).values()
        if isinstance(kept, list)
        for array in kept
        if isinstance(array, np.ndarray)
    ]
    return bits(network), state, history


@each_optimizer
def test_a_training_that_was_stopped_ends_in_the_same_bits(tmp_path, name):
    make = OPTIMIZERS[name][0]
    whole = train_on(tmp_path / "whole.npz", 3, make)
    for epochs in (1, 2, 3):
        parts = train_on(tmp_path / "parts.npz", epochs, make)
    assert parts == whole


def test_made_anew_in_each_epoch_it_is_another_method():
    """So the test above would notice a state that is not saved."""
    ends = []
    for renew in (False, True):
        network = seed_network(0, 4, np.float32)
        optimizer = Adam(network.parameters(), 0.01)
        for _ in range(2):
            if renew:
                optimizer = Adam(network.parameters(), 0.01)
            train_step(network, optimizer, FEW.images, FEW.labels)
        ends.append(bits(network))
    assert ends[0] != ends[1]


def test_the_same_objects_go_on_after_an_interruption(tmp_path):
    """As in a notebook: the count of steps is no mark of another run."""
    network, rng = seed_network(0, 4, np.float32), np.random.default_rng(0)
    optimizer = Adam(network.parameters(), 0.01)
    options = {"batch_size": 32, "rng": rng, "checkpoint": tmp_path / "a.npz"}
    data = network, optimizer, FEW, HELD_OUT
    train(*data, epochs=1, **options)
    history = train(*data, epochs=2, **options)
    assert len(history) == 2
    assert [int(count) for count in optimizer.counts] == [10] * 4


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda p: AdamW(p, 0.01), "optimizer"),
        (lambda p: Adam(p, 0.01, (0.9, 0.99)), "betas"),
        (lambda p: Adam(p, 0.01, eps=1e-3), "eps"),
        (lambda p: Adam(p, 0.01, weight_decay=1e-4), "weight_decay"),
        (lambda p: Adam(p, 0.02), "mean lr"),
    ],
)
def test_a_checkpoint_of_another_adam_is_refused(tmp_path, other, name):
    train_on(tmp_path / "a.npz", 1, lambda p: Adam(p, 0.01))
    with pytest.raises(
        ValueError, match=in_order("holds another run", f"{name} is")
    ):
        train_on(tmp_path / "a.npz", 2, other)


def test_a_checkpoint_of_momentum_has_no_squares(tmp_path):
    path = tmp_path / "a.npz"
    network, rng = seed_network(0), np.random.default_rng(0)
    Checkpoint(network, SGD(network.parameters(), 0.1), rng).save(path)
    adam = Checkpoint(network, Adam(network.parameters()), rng)
    with pytest.raises(ValueError, match="another architecture"):
        adam.load(path)


@each_optimizer
def test_a_step_that_is_shared_is_the_same_step(name):
    networks = [two_convolutions(), two_convolutions()]
    first, second = (
        OPTIMIZERS[name][0](network.parameters()) for network in networks
    )
    rng = np.random.default_rng(0)
    with ParallelStep(networks[1], workers=1, microbatch_size=3) as step:
        for _ in range(3):
            x = rng.standard_normal((8, 2, 9, 9))
            batch = x, rng.integers(0, 5, 8)
            train_step(networks[0], first, *batch)
            step(networks[1], second, *batch)
    for p, q in zip(*(n.parameters() for n in networks), strict=True):
        assert np.allclose(p.value, q.value, atol=1e-8)


@each_optimizer
def test_a_copy_goes_its_own_way(name):
    network = seed_network(0)
    optimizer = OPTIMIZERS[name][0](network.parameters())
    other, twin = copy.deepcopy((network, optimizer))
    train_step(network, optimizer, FEW.images, FEW.labels)
    assert bits(network) != bits(other)
    train_step(other, twin, FEW.images, FEW.labels)
    assert bits(network) == bits(other)


# --- what is refused ---------------------------------------------------------

WRONG = {
    "lr": [-0.1, math.nan, math.inf],
    "eps": [0.0, -1e-8, math.nan, math.inf],
    "weight_decay": [-1e-4, math.nan, math.inf],
    "alpha": [-0.1, 1.0, 1.5, math.nan],
    "momentum": [-0.1, 1.0, math.nan],
    "betas": [
        *((0.9, 1.0), (1.0, 0.9), (-0.1, 0.9), (0.9, math.nan)),
        *((0.9,), (0.9, 0.99, 0.999), 0.9),
    ],
}


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (make, name, value)
        for make in (RMSprop, Adam, AdamW)
        for name, values in WRONG.items()
        if name in inspect.signature(make).parameters
        for value in values
    ],
)
def test_bad_settings_are_refused(make, name, value):
    with pytest.raises(
        ValueError,
        match=in_order(
            f"{make.__name__} was given lr=",
            value,
            "expected lr and weight_decay >= 0",
            f"Begin with {make.__name__}(parameters)",
        ),
    ):
        make([Parameter(np.ones(1))], **{name: value})


@pytest.mark.parametrize("make", [Nesterov, RMSprop, Adam, AdamW])
def test_parameters_are_looked_at_as_sgd_looks(make):
    with pytest.raises(ValueError, match="expected a list of Parameters"):
        make([], 0.1)
    network, other = seed_network(0), seed_network(0)
    way = f"{make.__name__}(network.parameters(), lr)."
    with pytest.raises(
        ValueError, match=in_order("are not this network's", f": {way}")
    ):
        train_step(
            *(network, make(other.parameters(), 0.1)),
            *(FEW.images, FEW.labels),
        )
    made = {make.__name__: make, "network": network, "lr": 0.01}
    optimizer = eval(way.removesuffix("."), made)
    train_step(network, optimizer, FEW.images, FEW.labels)


def test_what_tells_runs_apart_can_be_written_down():
    """A list in the place of the pair would be taken for its arrays."""
    optimizer = Adam([Parameter(np.ones(1))], betas=[0.5, 0.75])
    assert json.dumps(optimizer.betas) == "[0.5, 0.75]"
    assert isinstance(optimizer.betas, tuple)
