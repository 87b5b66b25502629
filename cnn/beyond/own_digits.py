# Written by book/beyond/own_digits.md. To keep edits: tangle.py --back.
"""From a photograph or a drawing to an image such as a network knows."""

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import label

from cnn.data import Dataset, as_numbers, scale


def lightness(picture: Any) -> np.ndarray:
    """How bright each pixel is, 0..1, (H, W).

    picture: (H, W) or (H, W, C), bytes, or floats in 0..1. C is 1 or 3, or
        one more for the opacity. ValueError if it is anything else.
    Equation: eq-own-digits-grey.
    """
    if isinstance(picture, str) or hasattr(picture, "__fspath__"):
        raise ValueError(
            f"lightness was given {picture!r}; expected a picture, (H, W) or "
            "(H, W, 3). Read the file: matplotlib.image.imread(path)."
        )
    given = as_numbers("lightness", "picture", picture)
    check_picture(given)
    light = given / 255 if given.dtype.kind in "iu" else given.astype(float)
    if light.ndim == 2:
        return light
    opaque = np.ones(light.shape[:2])
    if light.shape[2] in (2, 4):
        light, opaque = light[..., :-1], light[..., -1]
    weights = [0.299, 0.587, 0.114] if light.shape[2] == 3 else [1.0]
    grey = light @ np.array(weights)
    drawn = np.sum(opaque * grey) / max(np.sum(opaque), 1e-9)
    ground = float(drawn < 0.5)  # white, unless white would hide it
    result: np.ndarray = opaque * grey + (1 - opaque) * ground
    return result


def check_picture(picture: np.ndarray) -> None:
    """ValueError unless picture, of any shape, is one that lightness takes."""
    shape = picture.shape
    if len(shape) not in (2, 3) or not 1 <= (*shape, 1)[2] <= 4 or 0 in shape:
        raise ValueError(
            f"lightness was given a picture of shape {shape}; expected "
            "(H, W), or (H, W, C) with C up to 4. Give one picture at a time; "
            "np.moveaxis(picture, 0, 2) brings channels from front to back."
        )
    low, high = picture.min(), picture.max()
    most = 255 if picture.dtype.kind in "iu" else 1
    if not 0 <= low <= high <= most:  # which nan is not
        raise ValueError(
            f"lightness was given {picture.dtype} from {low} to {high}; "
            f"expected 0..{most}. Bytes are 0..255, floats 0..1: divide by "
            "the brightest that the file could hold."
        )


def paper_light(light: np.ndarray) -> np.ndarray:
    """How bright clean paper would be at each place, like light.

    light: (H, W). Thin strokes on paper; a dark margin can mislead it.
    Equation: eq-own-digits-paper.
    """
    u = np.linspace(-1, 1, light.shape[0])[:, np.newaxis]
    v = np.linspace(-1, 1, light.shape[1])
    terms = [u**0, u, v, u * u, u * v, v * v]
    coarse = -(-max(light.shape) // 100)  # some 100 x 100 places will do

    def column(term: np.ndarray) -> np.ndarray:
        whole = np.broadcast_to(term, light.shape)
        return whole[::coarse, ::coarse].ravel()

    places, values = np.stack([*map(column, terms)], 1), column(light)
    near = np.full(len(values), True)
    for _ in range(10):
        c = np.linalg.lstsq(places[near], values[near])[0]
        away = np.abs(values - places @ c)
        near = away <= np.median(away)
    paper: np.ndarray = sum(k * term for k, term in zip(c, terms, strict=True))
    return paper


def ink_share(light: np.ndarray) -> np.ndarray:
    """The share of the light that ink swallows, (H, W); 0 on clean paper.

    light: (H, W), 0..1. Bright ink on dark paper is turned round.
    Equation: eq-own-digits-ink.
    """
    paper = paper_light(light)
    if np.sum((light - paper) ** 3) > 0:
        light, paper = 1 - light, 1 - paper
    share: np.ndarray = 1 - light / np.maximum(paper, 0.2)
    return share


def ink_threshold(share: np.ndarray) -> float:
    """The share of light that parts ink from paper.

    share: (H, W). ValueError if no ink is seen.
    Equation: eq-own-digits-threshold.
    """
    counts, edges = np.histogram(share, 256)
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    apart = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    apart -= sums[:-1] / np.maximum(below, 1)  # m_1 - m_0
    apart *= (below > 0) & (above > 0)
    best = int(np.argmax(below * above * apart**2))
    if apart[best] < 0.2:
        raise ValueError(
            "the picture is blank: its darkest and brightest parts differ by "
            f"{apart[best]:.0%} of the light; expected 20 % at least "
            "between ink and paper. Use a darker pen, or more light."
        )
    return float(edges[best + 1])


def strokes(share: np.ndarray) -> np.ndarray:
    """Which pixels belong to the digit, (H, W), True or False.

    share: (H, W), of ink. ValueError if it is none, or several digits.
    """
    parts, _ = label(share > ink_threshold(share), np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the paper
    digit: np.ndarray = (sizes > 0.1 * sizes.max())[parts]
    columns = digit.sum(axis=0)
    left = np.cumsum(columns) / columns.sum()
    (gaps,) = np.nonzero((columns == 0) & (left > 0.25) & (left < 0.75))
    if gaps.size:
        raise ValueError(
            "strokes was given a picture that has ink on both sides of its "
            f"empty column {gaps[0]}; expected one digit. Cut the picture "
            "there, and give its parts one by one."
        )
    return digit


class Frame(NamedTuple):
    """How a data set's digits lie in their images.

    side: of the image. box: the digit's longer side in it.
    by_mass: whether the centre of mass is at centre, or that of the box.
    centre: in pixels from the image's edge. white: the grey of full ink.
    """

    side: int
    box: int
    by_mass: bool
    centre: float
    white: int


FRAMES = {
    "mnist": Frame(28, 20, True, 14.5, 255),
    "digits": Frame(8, 8, False, 4.0, 16),
}


def area_weights(
    start: float, step: float, count: int, size: int
) -> np.ndarray:
    """The share of each square that each pixel covers, (count, size).

    start, step: where the first of count squares begins, and how long each
        is, in pixels.
    size: how many pixels there are.
    Equation: eq-own-digits-window.
    """
    begin = start + step * np.arange(count)[:, np.newaxis]
    pixel = np.arange(size)
    upper = np.minimum(begin + step, pixel + 1)
    covered = np.maximum(upper - np.maximum(begin, pixel), 0)
    weights: np.ndarray = covered / step
    return weights


def fit(digit: np.ndarray, frame: Frame) -> np.ndarray:
    """The digit in the place and size that frame asks for, 0..1.

    digit: (H, W), True where there is ink; what returns is (side, side).
    frame: of the data set.
    Equation: eq-own-digits-window.
    """
    lines = [np.flatnonzero(digit.any(axis=axis)) for axis in (1, 0)]
    step = max(np.ptp(line) + 1 for line in lines) / frame.box
    weights = []
    for axis, line in zip((1, 0), lines, strict=True):
        middle = (line[0] + line[-1] + 1) / 2
        if frame.by_mass:
            middle = np.nonzero(digit)[1 - axis].mean() + 0.5
        start = middle - frame.centre * step
        size = digit.shape[1 - axis]
        weights.append(area_weights(start, step, frame.side, size))
    down, across = weights
    y: np.ndarray = down @ digit @ across.T
    return y


def prepare_digit(picture: Any, dataset: Dataset) -> np.ndarray:
    """A picture of one digit as an image of the data set, (1, 1, H, W).

    picture: as lightness takes it, of any size; thin strokes on paper.
    dataset: what the network was trained on, MNIST or the digits.
    ValueError if it is no picture, blank, or shows several digits.
    """
    frame = FRAMES.get(dataset.name)
    if frame is None:
        raise ValueError(
            f"the data set is {dataset.name!r}; expected one of handwritten "
            f"digits, {' or '.join(FRAMES)}. Measure how yours lie in their "
            "images, and give FRAMES an entry."
        )
    digit = strokes(ink_share(lightness(picture)))
    greys = np.rint(frame.white * fit(digit, frame).clip(0, 1))
    return scale(greys[np.newaxis], dataset.mean, dataset.std)
