"""Numbers that others have printed, in books, courses and papers.

None of them was computed with this package, nor with the libraries that the
other tests ask.
"""

import numpy as np
import pytest

from cnn import (
    SGD,
    Parameter,
    conv2d,
    cross_entropy,
    linear,
    max_pool2d,
    softmax,
)
from cnn.convolution import conv2d_grad_input


def spread(first: float, last: float, *shape: int) -> np.ndarray:
    """Numbers at equal distances, in reading order."""
    return np.linspace(first, last, int(np.prod(shape))).reshape(shape)


def cross_correlate(
    x: object, w: object, stride: int = 1, padding: int = 0
) -> np.ndarray:
    """One image, (C, H, W) or (H, W), and filters, without a bias."""
    image, filters = np.array(x, float), np.array(w, float)
    image = image.reshape(1, -1, *image.shape[-2:])
    filters = filters.reshape(-1, image.shape[1], *filters.shape[-2:])
    y = conv2d(image, filters, np.zeros(len(filters)), stride, padding)
    return y[0].squeeze()


def transposed(x: object, w: object, stride: int, padding: int) -> np.ndarray:
    """One image of one channel, through the way back of one filter."""
    grad, weight = (np.array(a, float)[None, None] for a in (x, w))
    h, k = grad.shape[-1], weight.shape[-1]
    size = (h - 1) * stride + k - 2 * padding
    shape = (1, 1, size, size)
    return conv2d_grad_input(grad, weight, shape, stride, padding)[0, 0]


# --- Dive into Deep Learning (zhang2023dive) --------------------------------

NINE = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
FOUR = [[0, 1], [2, 3]]
COLOURS = [NINE, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
PAIRS = [FOUR, [[1, 2], [3, 4]]]


def test_d2l_cross_correlation() -> None:
    expected = [[19, 25], [37, 43]]
    np.testing.assert_array_equal(cross_correlate(NINE, FOUR), expected)


def test_d2l_edges_of_a_stripe() -> None:
    x = np.ones((6, 8))
    x[:, 2:6] = 0
    y = cross_correlate(x, [[1, -1]])
    np.testing.assert_array_equal(y, [[0, 1, 0, 0, 0, -1, 0]] * 6)
    assert not cross_correlate(x.T, [[1, -1]]).any()


def test_d2l_channels() -> None:
    first = [[56, 72], [104, 120]]
    np.testing.assert_array_equal(cross_correlate(COLOURS, PAIRS), first)
    three = [np.array(PAIRS) + n for n in range(3)]
    np.testing.assert_array_equal(
        cross_correlate(COLOURS, three),
        [first, [[76, 100], [148, 172]], [[96, 128], [192, 224]]],
    )


@pytest.mark.parametrize(
    ("x", "settings", "expected"),
    [
        (NINE, (2, 1), [[4, 5], [7, 8]]),
        (np.arange(16).reshape(4, 4), (3,), [[10]]),
        (np.arange(16).reshape(4, 4), (3, 2, 1), [[5, 7], [13, 15]]),
        (
            np.arange(16).reshape(4, 4),
            ((2, 3), (2, 3), (0, 1)),
            [[5, 7], [13, 15]],
        ),
    ],
)
def test_d2l_max_pooling(x, settings, expected) -> None:
    y = max_pool2d(np.array(x, float)[None, None], *settings)
    np.testing.assert_array_equal(y[0, 0], expected)


@pytest.mark.parametrize(
    ("stride", "padding", "expected"),
    [
        (1, 0, [[0, 0, 1], [0, 4, 6], [4, 12, 9]]),
        (2, 0, [[0, 0, 0, 1], [0, 0, 2, 3], [0, 2, 0, 3], [4, 6, 6, 9]]),
        (1, 1, [[4]]),
    ],
)
def test_d2l_transposed_convolution(stride, padding, expected) -> None:
    """It is our gradient to the input."""
    y = transposed(FOUR, FOUR, stride, padding)
    np.testing.assert_array_equal(y, expected)


# --- A guide to convolution arithmetic (dumoulin2016guide) ------------------

BLUE = [
    [3, 3, 2, 1, 0],
    [0, 0, 1, 3, 1],
    [3, 1, 2, 2, 3],
    [2, 0, 0, 2, 2],
    [2, 0, 0, 0, 1],
]


def test_the_guide_s_figure_of_a_convolution() -> None:
    y = cross_correlate(BLUE, [[0, 1, 2], [2, 2, 0], [0, 1, 2]])
    expected = [[12, 12, 17], [10, 17, 19], [9, 6, 14]]
    np.testing.assert_array_equal(y, expected)


def test_the_guide_s_figure_with_stride_and_padding() -> None:
    y = cross_correlate(BLUE, [[0, 1, 2], [2, 2, 0], [0, 1, 2]], 2, 1)
    expected = [[6, 17, 3], [8, 17, 13], [6, 4, 4]]
    np.testing.assert_array_equal(y, expected)


def test_the_guide_s_figures_of_pooling() -> None:
    x = np.array(BLUE, float)
    y = max_pool2d(x[None, None], 3, 1)[0, 0]
    np.testing.assert_array_equal(y, [[3, 3, 3], [3, 3, 3], [3, 2, 3]])
    mean = cross_correlate(x, np.full((3, 3), 1 / 9))
    expected = [[1.7, 1.7, 1.7], [1.0, 1.2, 1.8], [1.1, 0.8, 1.3]]
    np.testing.assert_allclose(mean, expected, atol=0.05)


# --- CS231n: notes and assignments (li2016cs231n) ---------------------


def test_cs231n_a_linear_classifier_and_its_loss() -> None:
    """Four pixels of a cat, three classes: scores, softmax, loss."""
    x = np.array([[-15.0, 22.0, -44.0, 56.0]])
    w = [
        [0.01, -0.05, 0.1, 0.05],
        [0.7, 0.2, 0.05, 0.16],
        [0, -0.45, -0.2, 0.03],
    ]
    scores = linear(x, np.array(w), np.array([0.0, 0.2, -0.3]))
    np.testing.assert_allclose(scores, [[-2.85, 0.86, 0.28]], atol=0.005)
    np.testing.assert_allclose(
        softmax(scores), [[0.016, 0.631, 0.353]], atol=0.001
    )
    assert cross_entropy(scores, np.array([2])) == pytest.approx(
        1.04, abs=5e-3
    )


def test_cs231n_the_affine_layer() -> None:
    y = linear(
        spread(-0.1, 0.5, 2, 120),
        spread(-0.2, 0.3, 120, 3).T,
        spread(-0.3, 0.1, 3),
    )
    expected = [
        [1.49834967, 1.70660132, 1.91485297],
        [3.25553199, 3.5141327, 3.77273342],
    ]
    np.testing.assert_allclose(y, expected, atol=1e-8)


def test_cs231n_the_convolution() -> None:
    y = conv2d(
        spread(-0.1, 0.5, 2, 3, 4, 4),
        spread(-0.2, 0.3, 3, 3, 4, 4),
        spread(-0.1, 0.2, 3),
        stride=2,
        padding=1,
    )
    expected = [
        [-0.08759809, -0.10987781, -0.18387192, -0.2109216],
        [0.21027089, 0.21661097, 0.22847626, 0.23004637],
        [0.50813986, 0.54309974, 0.64082444, 0.67101435],
        [-0.98053589, -1.03143541, -1.19128892, -1.24695841],
        [0.69108355, 0.66880383, 0.59480972, 0.56776003],
        [2.36270298, 2.36904306, 2.38090835, 2.38247847],
    ]
    np.testing.assert_allclose(y.reshape(6, 4), expected, atol=1e-8)


def test_cs231n_the_max_pooling() -> None:
    y = max_pool2d(spread(-0.3, 0.4, 2, 3, 4, 4), 2)
    expected = [
        [-0.26315789, -0.24842105, -0.20421053, -0.18947368],
        [-0.14526316, -0.13052632, -0.08631579, -0.07157895],
        [-0.02736842, -0.01263158, 0.03157895, 0.04631579],
        [0.09052632, 0.10526316, 0.14947368, 0.16421053],
        [0.20842105, 0.22315789, 0.26736842, 0.28210526],
        [0.32631579, 0.34105263, 0.38526316, 0.4],
    ]
    np.testing.assert_allclose(y.reshape(6, 4), expected, atol=1e-8)


def test_cs231n_momentum() -> None:
    """Their velocity is ours times -lr."""
    lr = 1e-3
    weight = Parameter(spread(-0.4, 0.6, 4, 5))
    weight.grad = spread(-0.6, 0.4, 4, 5)
    sgd = SGD([weight], lr, momentum=0.9)
    sgd.velocities = [spread(0.6, 0.9, 4, 5) / -lr]
    sgd.step()
    expected = [
        [0.1406, 0.20738947, 0.27417895, 0.34096842, 0.40775789],
        [0.47454737, 0.54133684, 0.60812632, 0.67491579, 0.74170526],
        [0.80849474, 0.87528421, 0.94207368, 1.00886316, 1.07565263],
        [1.14244211, 1.20923158, 1.27602105, 1.34281053, 1.4096],
    ]
    np.testing.assert_allclose(weight.value, expected, atol=1e-8)
    first, *_, last = (-lr * sgd.velocities[0]).ravel()
    assert first == pytest.approx(0.5406, abs=1e-8)
    assert last == pytest.approx(0.8096, abs=1e-8)
