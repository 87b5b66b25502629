"""From a photograph to an image: held against Pillow, scipy, and the loop."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread, imsave
from PIL import Image
from scipy.ndimage import center_of_mass, map_coordinates

import cnn
from cnn.beyond.own_digits import (
    FRAMES,
    area_weights,
    fit,
    ink_share,
    ink_threshold,
    lightness,
    paper_light,
    prepare_digit,
    strokes,
)


seeds = st.integers(0, 2**32 - 1)


def data(name: str = "mnist") -> cnn.Dataset:
    """An empty data set with the scale of MNIST."""
    nothing = np.zeros((0, 1, 28, 28), np.float32)
    names = tuple("0123456789")
    return cnn.Dataset(name, nothing, np.zeros(0, int), names, 33.3, 78.6)


def seven(rows: int = 120, columns: int = 160, at: int = 60) -> np.ndarray:
    """Where a 7 of 70 rows and 40 columns has its ink."""
    ink = np.zeros((rows, columns), bool)
    ink[20:30, at : at + 40] = True
    ink[20:90, at + 30 : at + 40] = True
    return ink


def photograph(ink: np.ndarray, seed: int = 0) -> np.ndarray:
    """Dark ink on grey paper, the light from one side, with noise."""
    i, j = np.indices(ink.shape)
    light = 0.4 + 0.2 * i / ink.shape[0] + 0.2 * j / ink.shape[1]
    noise = np.random.default_rng(seed).normal(0, 0.01, ink.shape)
    seen = light * (1 - 0.7 * ink) + noise
    return np.rint(255 * seen.clip(0, 1)).astype(np.uint8)


# From any picture to greys.


@given(seeds)
def test_grey_is_pillows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(picture).convert("L"))
    assert np.abs(255 * lightness(picture) - theirs).max() <= 1


@given(seeds)
def test_transparency_is_pillows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 120, (5, 7, 4), dtype=np.uint8)
    drawn = Image.fromarray(picture)
    paper = Image.new("RGBA", drawn.size, "white")
    theirs = np.asarray(Image.alpha_composite(paper, drawn).convert("L"))
    assert np.abs(255 * lightness(picture) - theirs).max() <= 2


def kinds() -> dict[str, Any]:
    """One photograph in every kind that people have."""
    photo = photograph(seven())
    colour = np.repeat(photo[..., np.newaxis], 3, axis=2)
    opaque = np.full_like(colour[..., :1], 255)
    file = io.BytesIO()
    imsave(file, photo, cmap="gray", vmin=0, vmax=255, format="png")
    file.seek(0)
    jpeg = io.BytesIO()
    Image.fromarray(colour).save(jpeg, "jpeg", quality=95)
    jpeg.seek(0)
    return {
        "bytes": photo,
        "floats": photo / 255,
        "float32": (photo / 255).astype(np.float32),
        "int64": photo.astype(np.int64),
        "a list": photo.tolist(),
        "one channel": photo[..., np.newaxis],
        "grey and opacity": np.dstack([photo, opaque[..., 0]]),
        "colour": colour,
        "colour and opacity": np.concatenate([colour, opaque], axis=2),
        "a PNG": imread(file),
        "a JPEG": imread(jpeg, format="jpeg"),
        "Pillow": Image.fromarray(photo),
        "negative": 255 - photo,
        "drawn on nothing": np.dstack(
            [np.zeros((120, 160, 3)), seven().astype(float)]
        ),
        "chalk on nothing": np.dstack(
            [np.ones((120, 160, 3)), seven().astype(float)]
        ),
        "True is paper": ~seven(),
        "True is ink": seven(),
    }


@pytest.mark.parametrize("kind", kinds())
def test_each_kind_of_picture_gives_the_same_digit(kind: str) -> None:
    made = prepare_digit(kinds()[kind], data())
    assert made.shape == (1, 1, 28, 28)
    assert made.dtype == np.float32
    right = scaled(fit(seven(), FRAMES["mnist"]))
    assert np.abs(made[0, 0] - right).max() < 0.1 * np.ptp(right)


def scaled(shares: np.ndarray) -> np.ndarray:
    return (255 * shares - 33.3) / 78.6


WRONG: dict[str, tuple[Any, str, str]] = {
    "a path": ("seven.png", "'seven.png'", "imread"),
    "text": ([["a", "b"]], "given picture", "float"),
    "a batch": (np.zeros((2, 9, 9, 3)), "(2, 9, 9, 3)", "one picture"),
    "channels first": (np.zeros((3, 99, 99)), "(3, 99, 99)", "moveaxis"),
    "a row": (np.zeros(784), "(784,)", "one picture"),
    "nothing": (np.zeros((0, 9)), "(0, 9)", "one picture"),
    "floats to 255": (255.0 * seven(), "0.0 to 255.0", "divide"),
    "scaled": (seven() - 0.4, "-0.4", "divide"),
    "16 bits": (40000 * seven().astype(int), "40000", "divide"),
    "nan": (np.where(seven(), np.nan, 1), "nan", "divide"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_picture_is_refused_with_the_way_out(kind: str) -> None:
    picture, says, way = WRONG[kind]
    with pytest.raises(ValueError, match=in_order(says, "expected", way)):
        prepare_digit(picture, data())


@pytest.mark.parametrize("grey", [0.0, 0.4, 1.0])
def test_a_blank_sheet_is_refused(grey: float) -> None:
    with pytest.raises(ValueError, match=in_order("blank", "expected", "pen")):
        prepare_digit(np.full((30, 40), grey), data())


@given(seeds)
def test_noise_on_a_sheet_is_no_ink(seed: int) -> None:
    photo = photograph(np.zeros((60, 80), bool), seed)
    with pytest.raises(ValueError, match="blank"):
        prepare_digit(photo, data())


def test_two_digits_are_refused_and_told_where_to_cut() -> None:
    both = seven(at=20) | seven(at=90)
    with pytest.raises(ValueError, match="column 60; expected one digit"):
        prepare_digit(photograph(both), data())
    one = prepare_digit(photograph(both)[:, :75], data())
    assert np.abs(one - prepare_digit(photograph(seven()), data())).max() < 0.5


def test_other_data_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=in_order("'clothes'", "mnist")):
        prepare_digit(photograph(seven()), data("clothes"))


# The light, the ink, the threshold.


@given(seeds)
def test_the_papers_light_is_found_under_the_ink(seed: int) -> None:
    rng = np.random.default_rng(seed)
    u, v = np.mgrid[-1:1:61j, -1:1:83j]
    slopes = rng.uniform(-0.06, 0.06, 5)
    terms = np.stack([u, v, u * u, u * v, v * v])
    light = 0.7 + np.tensordot(slopes, terms, 1)
    dark = light.copy()
    dark[10:40, 20:60] *= 0.4
    assert np.abs(paper_light(dark) - light).max() < 1e-9


@pytest.mark.parametrize("turned", [False, True])
def test_ink_is_one_number_in_light_and_shade(turned: bool) -> None:
    i, j = np.indices((60, 80)) / 100
    ink = seven(120, 160)[::2, ::2]
    light = (0.9 - 0.5 * i - 0.3 * j) * (1 - 0.7 * ink)
    share = ink_share(1 - light if turned else light)
    assert np.allclose(share, 0.7 * ink, atol=1e-9)


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=40), st.integers(1, 9)
)
def test_the_threshold_makes_the_heaps_tightest(
    values: list[int], unit: int
) -> None:
    share = np.array([[*values, 100]]) * unit / 10
    threshold = ink_threshold(share)

    def within(cut: float) -> float:
        heaps = share[share <= cut], share[share > cut]
        return sum(heap.size * heap.var() for heap in heaps)

    best = min(within(cut) for cut in np.unique(share)[:-1])
    # The histogram knows a share to a 256th of the whole range.
    assert within(threshold) <= best + share.size * np.ptp(share) ** 2 / 256


def test_a_speck_is_no_part_of_the_digit() -> None:
    ink = seven()
    dirty = ink.copy()
    dirty[110:113, 3:6] = True
    assert np.array_equal(strokes(dirty.astype(float)), ink)


# The window.


@given(
    st.floats(-5, 9), st.floats(0.3, 4), st.integers(1, 6), st.integers(1, 9)
)
def test_a_square_has_the_area_of_what_it_covers(
    start: float, step: float, count: int, size: int
) -> None:
    weights = area_weights(start, step, count, size)
    assert weights.shape == (count, size)
    for k, i in np.ndindex(count, size):
        lower = max(start + k * step, i)
        upper = min(start + (k + 1) * step, i + 1)
        assert weights[k, i] == pytest.approx(
            max(upper - lower, 0) / step, abs=1e-9
        )


def test_the_pencil_example() -> None:
    assert (area_weights(0, 2, 2, 4) @ [1, 1, 0, 1]).tolist() == [1, 0.5]


@pytest.mark.parametrize("factor", [2, 5])
def test_shrinking_by_a_whole_number_is_pillows(factor: int) -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((6 * factor, 4 * factor)).astype(np.float32)
    down = area_weights(0, factor, 6, 6 * factor)
    across = area_weights(0, factor, 4, 4 * factor)
    theirs = Image.fromarray(picture).reduce(factor)
    assert np.allclose(down @ picture @ across.T, theirs, atol=1e-6)


@given(st.integers(30, 90), st.integers(0, 20), st.integers(0, 30))
def test_a_digit_is_framed_as_mnist_frames_it(
    height: int, top: int, left: int
) -> None:
    ink = np.zeros((140, 160))
    ink[top : top + height, left : left + 8] = 1
    ink[top + height - 9 : top + height, left : left + 20] = 1
    made = fit(ink.astype(bool), FRAMES["mnist"])
    assert np.allclose(center_of_mass(made), 14, atol=0.1)
    rows = np.flatnonzero(made.max(axis=1) > 1e-9)
    assert 20 <= np.ptp(rows) + 1 <= 21  # it may begin within a row
    assert made.sum() == pytest.approx(ink.sum() * (20 / height) ** 2)


def test_a_small_digit_fills_its_image() -> None:
    made = fit(seven(), FRAMES["digits"])
    assert made.shape == (8, 8)
    assert made[0].max() > 0.5
    assert made[-1].max() > 0.5
    columns = np.flatnonzero(made.max(axis=0) > 1e-9)
    assert columns[0] + columns[-1] == 7


def test_it_does_not_matter_where_and_how_large() -> None:
    """The same digit, larger and elsewhere, gives the same image."""
    once = prepare_digit(photograph(seven()), data())
    large = np.repeat(np.repeat(seven(), 3, axis=0), 3, axis=1)
    again = prepare_digit(
        photograph(np.roll(large, (90, -100), (0, 1))), data()
    )
    assert np.abs(once - again).max() < 0.1 * np.ptp(once)


# Photographs of digits that nobody chose.


def test_photographs_of_test_images_are_read() -> None:
    """As the chapter does on MNIST, here on the small digits, with scipy."""
    training, validation, test = cnn.load_dataset("digits")
    rng = np.random.default_rng(0)
    network = cnn.Sequential(
        cnn.Conv2d(1, 16, 3, padding=1, rng=rng),
        cnn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Flatten(),
        cnn.Linear(256, 10, rng=rng),
    )
    optimizer = cnn.SGD(network.parameters(), 0.02, 0.9)
    cnn.train(
        network, optimizer, training, validation,
        epochs=8, batch_size=20, rng=rng,
    )  # fmt: skip
    hits = []
    for image, label in zip(test.images[:100, 0], test.labels, strict=False):
        greys = image * test.std + test.mean
        i, j = np.indices((100, 120))
        down, right = rng.uniform(45, 55), rng.uniform(50, 70)
        places = [(i - down) / 9 + 3.5, (j - right) / 9 + 3.5]
        ink = map_coordinates(greys / 16, places, order=1, cval=0.0)
        light = 0.5 + 0.3 * j / 120
        photo = np.rint(255 * light * (1 - 0.7 * ink)).astype(np.uint8)
        logits = network.forward(prepare_digit(photo, training))
        hits.append(logits.argmax() == label)
    assert np.mean(hits) > 0.9
