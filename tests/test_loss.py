"""Softmax and cross-entropy beside PyTorch's; overflow, labels, log K."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnn import (
    CrossEntropyLoss,
    cross_entropy,
    cross_entropy_backward,
    numerical_gradient,
    relative_error,
    softmax,
)
from cnn.loss import check_labels, log_softmax


@st.composite
def cases(draw):
    """Logits (N, K), up to 1e4 and each row about another level; labels."""
    n, classes = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]))
    level = draw(st.sampled_from([0.0, 1e4]))
    logits = scale * rng.standard_normal((n, classes))
    logits += level * rng.standard_normal((n, 1))
    return logits, rng.integers(0, classes, n)


def torch_cross_entropy(logits, labels):
    z = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(z, torch.tensor(labels))
    loss.backward()
    assert z.grad is not None
    return float(loss.detach()), z.grad.numpy()


@given(cases())
def test_forward_agrees_with_pytorch(case):
    logits, labels = case
    expected, _ = torch_cross_entropy(logits, labels)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss = cross_entropy(logits, labels)
    assert isinstance(loss, float)
    np.testing.assert_allclose(loss, expected, rtol=1e-10, atol=1e-10)


@given(cases())
def test_backward_agrees_with_pytorch(case):
    logits, labels = case
    _, expected = torch_cross_entropy(logits, labels)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        grad = cross_entropy_backward(logits, labels)
    np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-10)


@given(cases())
def test_softmax_agrees_with_pytorch(case):
    logits, _ = case
    z = torch.tensor(logits)
    np.testing.assert_allclose(
        softmax(logits), torch.softmax(z, 1).numpy(), rtol=1e-10, atol=1e-10
    )
    np.testing.assert_allclose(
        log_softmax(logits),
        torch.log_softmax(z, 1).numpy(),
        rtol=1e-10,
        atol=1e-10,
    )


def test_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    for n in (1, 6):  # with n = 1 alone, a forgotten 1/N would pass
        logits = rng.standard_normal((n, 5))
        labels = rng.integers(0, 5, n)
        measured = numerical_gradient(
            lambda z, labels=labels: cross_entropy(z, labels), logits
        )
        derived = cross_entropy_backward(logits, labels)
        assert relative_error(derived, measured) < 1e-8


def test_a_batch_by_hand():
    logits, labels = np.log([[1.0, 2, 5], [1, 1, 1]]), np.array([2, 0])
    assert np.isclose(cross_entropy(logits, labels), np.log(24 / 5) / 2)
    np.testing.assert_allclose(
        cross_entropy_backward(logits, labels),
        np.array([[1 / 8, 2 / 8, -3 / 8], [-2 / 3, 1 / 3, 1 / 3]]) / 2,
    )


def test_equal_logits_cost_log_k():
    for classes in (2, 10):
        logits = np.full((4, classes), 7.0)
        labels = np.arange(4) % classes
        assert np.isclose(cross_entropy(logits, labels), np.log(classes))


def test_an_image_does_not_depend_on_its_batch():
    # The maximum of the whole batch would turn the first rows into 0/0, and
    # in float32 blur a row that is 100 below another.
    level = np.array([[0.0], [-1000], [100], [1000]], np.float32)
    logits = level + np.array([0, 1, 3], np.float32)
    for function in (softmax, log_softmax):
        one_by_one = [function(row[np.newaxis])[0] for row in logits]
        np.testing.assert_array_equal(function(logits), one_by_one)
    np.testing.assert_allclose(
        softmax(logits), np.tile(softmax(logits[:1]), (4, 1)), rtol=1e-6
    )


def test_a_sure_network_has_a_finite_loss_in_float32():
    # exp(-200) is 0 in float32, and 0 * log(0) is not a number.
    logits = np.array([[200, 0, -200], [0, 200, 0]], np.float32)
    right, wrong = np.array([0, 1]), np.array([2, 0])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert cross_entropy(logits, right) == 0
        assert cross_entropy(logits, wrong) == 300
        grad = cross_entropy_backward(logits, wrong)
    assert grad.tolist() == [[0.5, 0, -0.5], [-0.5, 0.5, 0]]


def test_dtype_is_kept_and_arguments_are_not_changed():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0], np.uint8)
    kept = logits.copy()
    grad = cross_entropy_backward(logits, labels)
    assert grad.dtype == softmax(logits).dtype == np.float32
    assert np.array_equal(logits, kept)
    assert labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_backward])
@pytest.mark.parametrize(
    ("shape", "labels", "given_expected_way_out"),
    [
        ((2, 3), [0, -1], r"from -1 to 0; expected.*0\.\.2.*Leave out"),
        ((2, 3), [1, 3], r"from 1 to 3; expected.*0\.\.2.*subtract"),
        ((2, 3), [1, 4], r"from 1 to 4; expected.*0\.\.2.*more outputs"),
        ((2, 3), [0.0, 1.0], r"float64.*expected \(2,\) whole.*, int\)"),
        ((2, 3), [0.5, 1.0], r"float64.*expected \(2,\) whole.*fraction"),
        ((2, 3), [True, False], r"bool.*expected \(2,\) whole.*, int\)"),
        ((2, 3), [[0], [1]], r"\(2, 1\).*expected \(2,\) whole.*np.ravel"),
        (
            (2, 3),
            [[1, 0, 0], [0, 1, 0]],
            r"\(2, 3\) .*expected \(2,\) .*np.argmax\(labels, axis=1\)",
        ),
        ((3, 3), np.eye(3, dtype=int), r"\(3, 3\) .*expected \(3,\)"),
        ((2, 3), [0, 1, 2], r"shape \(3,\) .*expected \(2,\) .*each of"),
        ((0, 3), [], r"\(0, 3\); expected \(N, K\).*No axis may"),
        ((3,), [0], r"\(3,\); expected \(N, K\).*Add an axis"),
    ],
)
def test_bad_input_is_refused(function, shape, labels, given_expected_way_out):
    with pytest.raises(ValueError, match=given_expected_way_out):
        function(np.zeros(shape), np.array(labels))


def test_no_image_has_no_label():
    for none in ([], np.zeros(0, np.int64)):
        assert check_labels("f", none, 0, 1).shape == (0,)
        with pytest.raises(ValueError, match="from 0 to 0; expected"):
            check_labels("f", none, 2, 1)


def test_the_loss_object_is_the_two_functions():
    rng = np.random.default_rng(0)
    criterion = CrossEntropyLoss()
    for _ in range(2):  # the second time, backward must see the second batch
        logits, labels = rng.standard_normal((5, 4)), rng.integers(0, 4, 5)
        loss = criterion.forward(logits, labels)
        assert loss == cross_entropy(logits, labels)
        assert np.array_equal(
            criterion.backward(), cross_entropy_backward(logits, labels)
        )


def test_backward_before_forward_is_refused():
    with pytest.raises(
        ValueError,
        match=r"CrossEntropyLoss\.backward .*before forward.*Call forward",
    ):
        CrossEntropyLoss().backward()


def test_backward_after_a_refused_forward_is_refused_too():
    criterion = CrossEntropyLoss()
    with pytest.raises(ValueError, match="labels of shape"):
        criterion.forward(np.zeros((1, 2)), np.array([2]))
    with pytest.raises(ValueError, match="before forward"):
        criterion.backward()
