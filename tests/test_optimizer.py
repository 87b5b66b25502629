"""Descent, step for step beside PyTorch, and against what is derived."""

import math

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st

from cnn import SGD, Parameter, cosine_schedule


shapes = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=3,
)


@given(
    shapes,
    st.floats(1e-4, 0.5),
    st.just(0.0) | st.floats(0.01, 0.99),
    st.just(0.0) | st.floats(1e-4, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_steps_agree_with_pytorch(shapes, lr, momentum, decay, seed):
    """Twenty steps of drawn gradients, the learning rate halved half way."""
    rng = np.random.default_rng(seed)
    starts = [rng.standard_normal(shape) for shape in shapes]
    ours = [Parameter(w.copy()) for w in starts]
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in starts]
    optimizer = SGD(ours, lr, momentum, decay)
    reference = torch.optim.SGD(
        theirs, lr=lr, momentum=momentum, weight_decay=decay
    )
    for step in range(20):
        if step == 10:
            optimizer.lr = lr / 2
            reference.param_groups[0]["lr"] = lr / 2
        for p, q in zip(ours, theirs, strict=True):
            p.grad = rng.standard_normal(p.value.shape)
            q.grad = torch.tensor(p.grad)
        optimizer.step()
        reference.step()
        for p, q in zip(ours, theirs, strict=True):
            expected = q.detach().numpy()
            np.testing.assert_allclose(
                p.value, expected, rtol=1e-12, atol=1e-12
            )


def test_decay_shrinks_weights_that_have_no_gradient():
    """The sign: with it turned, the weights would grow."""
    w = Parameter(np.array([3.0, -4.0]))
    SGD([w], lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(w.value, [3 * 0.95, -4 * 0.95], rtol=1e-15)


def test_decay_is_the_gradient_of_the_penalty():
    """A step with decay = a step down L + decay/2 |w|^2, by differences."""
    rng = np.random.default_rng(0)
    start, slope, decay, h = rng.standard_normal(5), rng.normal(size=5), 0.3, 1

    def penalised(w):
        return slope @ w + decay / 2 * (w @ w)

    w = Parameter(start.copy())
    w.grad = slope
    SGD([w], lr=1.0, weight_decay=decay).step()
    # Central differences are exact for a quadratic, whatever h.
    gradient = [
        (penalised(start + h * e) - penalised(start - h * e)) / (2 * h)
        for e in np.eye(5)
    ]
    np.testing.assert_allclose(start - w.value, gradient, rtol=1e-12)


def test_velocity_is_kept_from_step_to_step():
    """Under a constant gradient the strides grow: 1, 1 + m, 1 + m + m^2."""
    w = Parameter(np.zeros(1))
    w.grad = np.ones(1)
    optimizer = SGD([w], lr=1.0, momentum=0.9)
    strides = []
    for _ in range(200):
        before = w.value.copy()
        optimizer.step()
        strides.append(float((before - w.value)[0]))
    assert strides[:3] == pytest.approx([1, 1.9, 2.71])
    assert strides[-1] == pytest.approx(1 / (1 - 0.9))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_bowl_has_its_cliff_where_it_is_derived(momentum):
    """lr < 2 (1 + momentum) / curvature settles; beyond it, it does not."""
    curvature = 7.0
    for share, settled in ((0.99, True), (1.01, False)):
        lr = share * 2 * (1 + momentum) / curvature
        w = Parameter(np.ones(1))
        optimizer = SGD([w], lr, momentum)
        for _ in range(2000):
            w.grad = curvature * w.value
            optimizer.step()
        assert (abs(w.value[0]) < 1e-6) == settled


def test_step_works_in_place_and_leaves_grad_alone():
    values = [np.ones((2, 3), np.float32), np.ones(4, np.float32)]
    parameters = [Parameter(value) for value in values]
    for p in parameters:
        p.grad = np.full_like(p.value, 0.5)
    optimizer = SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer.step()
    optimizer.step()
    for p, value in zip(parameters, values, strict=True):
        assert p.value is value
        assert p.value.dtype == np.float32
        assert (p.value < 1).all()
        assert (p.grad == 0.5).all()


def test_velocity_survives_an_overwritten_grad():
    """Backward writes a new array each time; nothing may hang on the old."""
    w = Parameter(np.zeros(2))
    optimizer = SGD([w], lr=1.0, momentum=0.5)
    w.grad = np.ones(2)
    optimizer.step()
    w.grad[...] = 100.0  # what comes later must not reach back
    np.testing.assert_array_equal(optimizer.velocities[0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("lr", "momentum", "decay"),
    [
        (-0.1, 0.0, 0.0),
        (math.nan, 0.0, 0.0),
        (0.1, -0.1, 0.0),
        (0.1, 1.0, 0.0),
        (0.1, math.nan, 0.0),
        (0.1, 0.0, -1e-4),
        (0.1, 0.0, math.nan),
        (math.inf, 0.0, 0.0),
        (0.1, 0.0, math.inf),
    ],
)
def test_bad_hyperparameters_are_refused(lr, momentum, decay):
    w = Parameter(np.ones(1))
    with pytest.raises(
        ValueError,
        match=in_order(
            f"lr is {lr}, momentum {momentum}, weight_decay {decay}; ",
            "expected finite lr >= 0, 0 <= momentum < 1 and weight_decay",
            "Begin with lr=0.1",
        ),
    ):
        SGD([w], lr, momentum, decay)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Parameter(np.ones(1)), "a Parameter of 0"),
        (None, "a NoneType of 0"),
        ([], "a list of 0"),
        ((1.0, 2.0), "a tuple of 2"),
        ([Parameter(np.ones(1))] * 2, "a list of 2"),
    ],
)
def test_what_are_no_parameters_is_told_by_its_type(given, said):
    with pytest.raises(
        ValueError, match=f"^parameters is {said}; expected a list of Param"
    ):
        SGD(given, 0.1)


def test_the_limits_themselves_are_allowed():
    w = Parameter(np.ones(1))
    w.grad = np.ones(1)
    SGD([w], 0.0, 0.0, 0.0).step()
    assert w.value[0] == 1


@given(st.floats(1e-6, 10), st.integers(1, 50))
def test_cosine_agrees_with_pytorch(lr, steps):
    w = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([w], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, steps)
    for step in range(steps + 1):
        theirs = reference.param_groups[0]["lr"]
        # PyTorch multiplies step by step, and gathers rounding errors.
        assert cosine_schedule(lr, step / steps) == pytest.approx(
            theirs, rel=1e-9, abs=1e-12 * lr
        )
        reference.step()
        scheduler.step()


def test_cosine_starts_at_lr_and_ends_at_zero():
    assert cosine_schedule(0.3, 0) == pytest.approx(0.3)
    assert cosine_schedule(0.3, 0.5) == pytest.approx(0.15)
    assert cosine_schedule(0.3, 1) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_cosine_refuses_progress_beyond_its_ends(progress):
    with pytest.raises(
        ValueError,
        match=in_order(
            f"progress is {progress}", "expected 0..1", "Divide the step"
        ),
    ):
        cosine_schedule(0.1, progress)
