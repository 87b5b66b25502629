"""Distorted images: held against scipy.ndimage and PyTorch, not ours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, map_coordinates
from torch.nn import functional

from cnn.beyond.augmentation import (
    affine_grid,
    distort,
    elastic_field,
    gaussian_basis,
    grid_sample,
    lerp,
    random_matrices,
)


FILL = -0.4
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
# All of scipy's modes but this one jump at the edge of the image.
LIKE_OURS = {"order": 1, "mode": "grid-constant", "cval": FILL}


def draw_images(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


@given(seeds, sizes, sizes, sizes, sizes, st.integers(1, 3))
def test_grid_sample_is_scipys(
    seed: int, height: int, width: int, rows_out: int, out: int, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    images = draw_images(rng, 3, channels, height, width)
    rows = rng.uniform(-3, height + 2, (3, rows_out, out))
    columns = rng.uniform(-3, width + 2, (3, rows_out, out))
    y = grid_sample(images, rows, columns, FILL)
    assert y.shape == (3, channels, rows_out, out)
    for n, c in np.ndindex(3, channels):
        places = [rows[n], columns[n]]
        expected = map_coordinates(images[n, c], places, **LIKE_OURS)
        assert np.abs(y[n, c] - expected).max() < 1e-12


@given(seeds, sizes, sizes)
def test_lerp_is_torchs(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    start, end, weight = rng.standard_normal((3, rows, columns))
    theirs = torch.lerp(*map(torch.from_numpy, (start, end, weight)))
    assert np.abs(lerp(start, end, weight) - theirs.numpy()).max() < 1e-12


@given(seeds, st.integers(2, 9), st.integers(2, 9), st.integers(1, 3))
def test_grid_sample_is_torchs(
    seed: int, height: int, width: int, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    images = draw_images(rng, 3, channels, height, width)
    rows = rng.uniform(-3, height + 2, (3, 4, 5))
    columns = rng.uniform(-3, width + 2, (3, 4, 5))
    y = grid_sample(images, rows, columns, FILL)
    # Theirs counts from -1 to 1, columns first, and outside there is 0.
    grid = np.stack(
        [2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], axis=-1
    )
    theirs = functional.grid_sample(
        torch.from_numpy(images - FILL),
        torch.from_numpy(grid),
        align_corners=True,
    )
    assert np.abs(y - FILL - theirs.numpy()).max() < 1e-11


@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_affine_grid_is_torchs(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    matrices = rng.uniform(-1.5, 1.5, (3, 2, 2))
    shifts = rng.uniform(-2, 2, (3, 2))
    rows, columns = affine_grid(matrices, shifts, (height, width))
    half = np.array([height - 1, width - 1]) / 2  # pixels in one of theirs
    theta = np.empty((3, 2, 3))
    theta[:, :, :2] = matrices * half / half[:, np.newaxis]
    theta[:, :, 2] = shifts / half
    theta = theta[:, ::-1][:, :, [1, 0, 2]]  # columns first
    theirs = functional.affine_grid(
        torch.from_numpy(theta.copy()),
        [3, 1, height, width],
        align_corners=True,
    ).numpy()
    down, right = half
    assert np.abs(columns - right * (theirs[..., 0] + 1)).max() < 1e-11
    assert np.abs(rows - down * (theirs[..., 1] + 1)).max() < 1e-11


def test_at_whole_places_the_pixels_come_back_to_the_bit() -> None:
    images = draw_images(np.random.default_rng(0), 2, 1, 4, 5)
    grid = np.indices((4, 5)).astype(float)
    rows, columns = (np.stack([places] * 2) for places in grid)
    assert np.array_equal(grid_sample(images, rows, columns, FILL), images)
    # Also at the last row and column, which have no neighbour beyond.
    aside = grid_sample(images, rows + 1, columns, FILL)
    assert np.array_equal(aside[:, :, :-1], images[:, :, 1:])
    assert np.allclose(aside[:, :, -1], FILL)


def test_far_outside_there_is_only_fill() -> None:
    images = np.ones((1, 1, 3, 3))
    for far in (-1.0, 3.0, -1e9, 1e9):
        rows = np.full((1, 1, 1), far)
        inside = np.ones((1, 1, 1))
        for places in ((rows, inside), (inside, rows)):
            assert np.isclose(grid_sample(images, *places, FILL)[0, 0], FILL)


@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_affine_grid_is_scipys(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    images = draw_images(rng, 3, 1, height, width)
    matrices = rng.uniform(-1.5, 1.5, (3, 2, 2))
    shifts = rng.uniform(-2, 2, (3, 2))
    places = affine_grid(matrices, shifts, (height, width))
    y = grid_sample(images, *places, FILL)
    centre = np.array([height - 1, width - 1]) / 2
    for image, matrix, shift, ours in zip(
        images[:, 0], matrices, shifts, y[:, 0], strict=True
    ):
        offset = centre + shift - matrix @ centre
        expected = affine_transform(image, matrix, offset, **LIKE_OURS)
        assert np.abs(ours - expected).max() < 1e-10


def test_random_matrices_keep_to_their_ranges() -> None:
    rng = np.random.default_rng(0)
    turns = random_matrices(4000, rng, 30, 0, 0)
    assert np.allclose(turns @ turns.swapaxes(1, 2), np.eye(2))
    angles = np.degrees(np.arctan2(turns[:, 0, 1], turns[:, 0, 0]))
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30
    scalings = random_matrices(4000, rng, 0, 0.2, 0)
    assert (scalings[:, [0, 1], [1, 0]] == 0).all()
    for factors in scalings[:, [0, 1], [0, 1]].T:
        assert 0.8 <= factors.min() < 0.81
        assert 1.19 < factors.max() <= 1.2
    # The two factors are drawn apart.
    assert abs(np.corrcoef(scalings[:, 0, 0], scalings[:, 1, 1])[0, 1]) < 0.1
    shears = random_matrices(4000, rng, 0, 0, 0.3)
    assert (shears[:, [0, 1], [0, 1]] == 1).all()
    assert -0.3 <= shears[:, 1, 0].min() < -0.29
    assert 0.29 < shears[:, 1, 0].max() <= 0.3


def test_the_product_is_rotation_times_the_rest() -> None:
    rng = np.random.default_rng(0)
    m = random_matrices(500, rng, 90, 0.3, 0.3)
    # Undo the rotation: its second column came through it alone.
    angle = np.arctan2(m[:, 0, 1], m[:, 1, 1])
    back = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    rest = np.moveaxis(back, -1, 0) @ m
    assert np.abs(rest[:, 0, 1]).max() < 1e-12
    assert (np.abs(rest[:, 1, 0]) <= 0.3).all()
    assert (np.abs(rest[:, [0, 1], [0, 1]] - 1) <= 0.3).all()


@given(st.integers(2, 40), st.integers(2, 12))
def test_the_gaussian_basis_has_rows_of_length_1(
    size: int, knots: int
) -> None:
    weight = gaussian_basis(size, knots)
    assert weight.shape == (size, knots)
    assert np.allclose((weight**2).sum(axis=1), 1)
    assert np.allclose(weight, weight[::-1, ::-1])
    # The first pixel lies on the first knot, the last on the last.
    assert weight[0].argmax() == 0
    assert weight[-1].argmax() == knots - 1


def test_elastic_field_has_its_strength_everywhere_and_is_smooth() -> None:
    rng = np.random.default_rng(0)
    field = elastic_field(5000, (28, 20), rng, 1.5, 6)
    assert field.shape == (2, 5000, 28, 20)
    assert field.dtype == np.float32
    rms = np.sqrt((field**2).mean(axis=1))
    assert np.abs(rms - 1.5).max() < 0.1
    assert abs(field.mean()) < 0.02
    # Rows and columns move independently; neighbours move together.
    assert abs((field[0] * field[1]).mean()) < 0.02
    steps = np.diff(field, axis=2), np.diff(field, axis=3)
    for step in steps:
        assert np.sqrt((step**2).mean()) < 0.5
    # At distant places they move independently.
    assert abs((field[0, :, 0] * field[0, :, -1]).mean()) < 0.1


def test_a_shift_moves_whole_images() -> None:
    rng = np.random.default_rng(0)
    images = np.full((300, 1, 11, 11), FILL, np.float32)
    images[:, :, 5, 5] = 1
    moved = distort(images, rng, fill=FILL, shift=2)
    mass = moved[:, 0] - np.float32(FILL)
    total = mass.sum(axis=(1, 2))
    assert np.allclose(total, 1 - FILL, rtol=1e-4)  # nothing is lost
    at = np.arange(11) - 5.0
    down = (mass.sum(axis=2) @ at) / total
    right = (mass.sum(axis=1) @ at) / total
    for way in (down, right):
        assert -2.001 < way.min() < -1.9
        assert 1.9 < way.max() < 2.001
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2


def test_distort_is_its_parts_put_together() -> None:
    images = draw_images(np.random.default_rng(1), 5, 2, 9, 7)
    images = images.astype(np.float32)
    rng, again = np.random.default_rng(2), np.random.default_rng(2)
    y = distort(
        images,
        rng,
        fill=FILL,
        shift=1.5,
        rotation=20,
        scale=0.1,
        shear=0.2,
        elastic=0.8,
        knots=4,
    )
    matrices = random_matrices(5, again, 20, 0.1, 0.2)
    shifts = again.uniform(-1.5, 1.5, (5, 2))
    rows, columns = affine_grid(matrices, shifts, (9, 7))
    down, right = elastic_field(5, (9, 7), again, 0.8, 4)
    expected = grid_sample(images, rows + down, columns + right, FILL)
    assert np.abs(y - expected).max() < 1e-4


def test_all_strengths_zero_give_the_images_back() -> None:
    rng = np.random.default_rng(0)
    images = draw_images(rng, 7, 2, 6, 5).astype(np.float32)
    before = images.copy()
    assert np.abs(distort(images, rng, fill=FILL) - images).max() < 1e-5
    distort(images, rng, fill=FILL, shift=3, rotation=40, elastic=1)
    assert np.array_equal(images, before)  # nothing mutates its argument


@pytest.mark.parametrize(
    "strengths",
    [
        {"shift": 1},
        {"rotation": 10},
        {"scale": 0.1},
        {"shear": 0.1},
        {"elastic": 1},
    ],
)
def test_each_strength_distorts_each_image_its_own_way(
    strengths: dict[str, float],
) -> None:
    rng = np.random.default_rng(0)
    # 450 equal images: the blocks that they are worked in must not show.
    images = np.tile(draw_images(rng, 1, 1, 8, 8), (450, 1, 1, 1))
    images = images.astype(np.float32)
    y = distort(images, rng, fill=FILL, **strengths)
    assert y.shape == images.shape
    assert y.dtype == np.float32
    assert len(np.unique(y.reshape(450, -1), axis=0)) == 450
    assert np.abs(y - images).max() > 0.1


def test_the_same_seed_gives_the_same_bits() -> None:
    images = draw_images(np.random.default_rng(1), 250, 1, 8, 8)
    images = images.astype(np.float32)

    def once(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return distort(images, rng, fill=0, shift=1, elastic=0.5, knots=4)

    assert np.array_equal(once(3), once(3))
    assert not np.array_equal(once(3), once(4))


def test_the_frame_has_the_value_of_an_empty_pixel() -> None:
    images = np.full((20, 1, 8, 8), FILL, np.float32)
    rng = np.random.default_rng(0)
    y = distort(images, rng, fill=FILL, shift=3, rotation=45, elastic=1)
    assert np.allclose(y, FILL)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 4))),
        (np.zeros((3, 3, 3)), np.zeros((3, 3, 3))),
        (np.zeros((2, 3)), np.zeros((2, 3))),
    ],
)
def test_places_that_do_not_fit(rows: np.ndarray, columns: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"grid_sample was .*expected \(N, H', W"
    ):
        grid_sample(np.zeros((2, 1, 4, 4)), rows, columns, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_places_that_are_no_numbers(bad: float) -> None:
    places = np.zeros((1, 2, 2))
    wrong = places.copy()
    wrong[0, 1, 1] = bad
    images = np.zeros((1, 1, 4, 4))
    for pair in ((places, wrong), (wrong, places)):
        with pytest.raises(ValueError, match=r"finite places\. Look"):
            grid_sample(images, *pair, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shift": -1},
        {"rotation": np.nan},
        {"elastic": np.inf},
        {"scale": -0.1},
        {"shear": -0.1},
        {"elastic": 1, "knots": 1},
    ],
)
def test_strengths_out_of_range(wrong: dict[str, float]) -> None:
    images = np.zeros((1, 1, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"least 2 knots\. A strength"):
        distort(images, np.random.default_rng(0), fill=0, **wrong)


@pytest.mark.parametrize("shape", [(4, 4), (0, 1, 4, 4)])
def test_no_batch_of_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\)"):
        distort(np.zeros(shape), np.random.default_rng(0), fill=0)
