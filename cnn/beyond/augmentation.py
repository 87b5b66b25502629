# Written by book/beyond/augmentation.md. To keep edits: tangle.py --back.
"""New images from old ones: shifted, turned, stretched, sheared, bent."""

import numpy as np

from cnn.data import (
    check_arrays,
    check_generator,
    check_numbers,
    check_positive,
)


def lerp(start: np.ndarray, end: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate on the line between two values.

    start, end: arrays of one shape.
    weight: of that shape; 0 gives start, 1 gives end.
    """
    y: np.ndarray = start + weight * (end - start)
    return y


def grid_sample(
    images: np.ndarray, rows: np.ndarray, columns: np.ndarray, fill: float
) -> np.ndarray:
    """Read images at fractional places, between the four nearest pixels.

    images: (N, C, H, W), floats.
    rows, columns: (N, H', W'), where in its image each output pixel is
        read, in pixels from the top left one.
    fill: the value of every pixel outside the image.
    Returns (N, C, H', W'), of the images' dtype.
    ValueError if shapes do not fit or a place is not finite.
    Equation: eq-augmentation-bilinear.
    """
    check_numbers(fill=fill)
    contract = "images (N, C, H, W), rows (N, H', W'), columns (N, H', W')"
    images, rows, columns = check_arrays(
        "grid_sample", contract, images, rows, columns
    )
    n, channels, height, width = images.shape
    if not np.isfinite(rows.sum() + columns.sum()):
        raise ValueError(
            "a row or a column is nan or infinite; expected finite places. "
            "Look for a division by zero where they were computed."
        )
    # A frame of one pixel stands for all that lies outside.
    framed = np.full((channels, n, height + 2, width + 2), fill, images.dtype)
    framed[:, :, 1:-1, 1:-1] = images.swapaxes(0, 1)
    down = np.clip(rows + 1, 0, height + 1).astype(images.dtype)
    right = np.clip(columns + 1, 0, width + 1).astype(images.dtype)
    # The upper left of the four; astype cuts off what is behind the point.
    top = np.minimum(down.astype(np.int32), height)
    left = np.minimum(right.astype(np.int32), width)
    down -= top.astype(images.dtype)  # now 0..1, from upper to lower
    right -= left.astype(images.dtype)  # and from left to right
    line, size = width + 2, (height + 2) * (width + 2)
    first = size * np.arange(n)[:, np.newaxis, np.newaxis]
    corner = first + (top * line + left)  # (N, H', W'), into a channel
    y = np.empty((n, channels, *rows.shape[1:]), images.dtype)
    for channel, pixels in enumerate(framed.reshape(channels, -1)):
        upper, lower = (
            lerp(pixels[at], pixels[at + 1], right)
            for at in (corner, corner + line)
        )
        y[:, channel] = lerp(upper, lower, down)
    return y


def affine_grid(
    matrices: np.ndarray, shifts: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where a linear map about the image's centre reads each pixel.

    matrices: (N, 2, 2), one map for each image, of (row, column).
    shifts: (N, 2), added to every place, (row, column), in pixels.
    size: (H, W) of the images.
    Returns rows and columns, each (N, H, W), as grid_sample takes them.
    Equation: eq-augmentation-affine.
    """
    contract = "matrices (N, 2, 2), shifts (N, 2)"
    matrices, shifts = check_arrays("affine_grid", contract, matrices, shifts)
    centre = [(n - 1) / 2 for n in size]
    y, x = (
        (np.arange(n) - c).astype(matrices.dtype)
        for n, c in zip(size, centre, strict=True)
    )
    m = matrices[:, :, :, np.newaxis, np.newaxis]  # (N, 2, 2, 1, 1)
    offset = shifts + np.array(centre, matrices.dtype)
    rows, columns = (
        m[:, axis, 0] * y[:, np.newaxis]
        + m[:, axis, 1] * x
        + offset[:, axis, np.newaxis, np.newaxis]
        for axis in (0, 1)
    )
    return rows, columns


def random_matrices(
    count: int,
    rng: np.random.Generator,
    rotation: float,
    scale: float,
    shear: float,
) -> np.ndarray:
    """Draw matrices: a rotation times a shear and two scalings.

    count: how many, N.
    rng: where the random numbers come from, all drawn evenly.
    rotation: the angles are from -rotation to rotation, in degrees.
    scale: the two factors are from 1 - scale to 1 + scale.
    shear: from -shear to shear.
    Returns (N, 2, 2).
    Equation: eq-augmentation-matrix.
    """
    check_generator(rng)
    angle, slant, tall, wide = rng.uniform(-1, 1, (4, count))
    angle *= np.deg2rad(rotation)
    tall, wide = 1 + scale * tall, 1 + scale * wide
    turn = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )  # (2, 2, N)
    zero = np.zeros(count)
    stretch = np.array([[tall, zero], [shear * slant, wide]])
    matrices: np.ndarray
    matrices = np.moveaxis(turn, -1, 0) @ np.moveaxis(stretch, -1, 0)
    return matrices


def gaussian_basis(size: int, knots: int) -> np.ndarray:
    """How strongly each knot of a line acts on each of its pixels.

    size: pixels of the line.
    knots: spread evenly from its first pixel to its last. Each is a bump,
        a Gauss curve as wide as 3/4 of the distance between two knots.
    Returns (size, knots); the squares of each row sum to 1.
    """
    gap = (size - 1) / (knots - 1)
    away = np.arange(size)[:, np.newaxis] / gap - np.arange(knots)
    weight: np.ndarray = np.exp(-((away / 0.75) ** 2) / 2)
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    return weight


def elastic_field(
    count: int,
    size: tuple[int, int],
    rng: np.random.Generator,
    strength: float,
    knots: int,
) -> np.ndarray:
    """Draw smooth random displacements of pixels.

    count: how many fields, N.
    size: (H, W) of each.
    rng: where the random numbers come from.
    strength: how far a pixel moves along each axis, root mean square.
    knots: along each axis; the fewer, the smoother.
    Returns (2, N, H, W), float32, in pixels: down, then across.
    Equation: eq-augmentation-elastic.
    """
    check_generator(rng)
    down, right = (gaussian_basis(n, knots).astype(np.float32) for n in size)
    noise = rng.standard_normal((2, count, knots, knots), np.float32)
    noise *= np.float32(strength)
    # (H, k) @ (2, N, k, k) @ (k, W) -> (2, N, H, W)
    field: np.ndarray = down @ noise @ right.T
    return field


def distort(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    fill: float,
    shift: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    elastic: float = 0.0,
    knots: int = 7,
) -> np.ndarray:
    """Make a new version of each image, by random numbers of its own.

    images: (N, C, H, W), float32; so is what is returned.
    rng: where the random numbers come from.
    fill: what lies outside of an image, the value of an empty pixel.
    shift: up to so many pixels along each axis.
    rotation, scale, shear: as random_matrices takes them.
    elastic: the strength that elastic_field takes.
    knots: of elastic_field, along each axis.
    ValueError if a strength is negative or not finite, or knots below 2.
    """
    (images,) = check_arrays("distort", "images (N, C, H, W)", images)
    check_positive(knots=knots)
    check_numbers(fill=fill, shift=shift, elastic=elastic)
    check_numbers(rotation=rotation, scale=scale, shear=shear)
    strengths = (shift, rotation, scale, shear, elastic)
    if not all(0 <= s < np.inf for s in strengths) or knots < 2:
        raise ValueError(
            f"shift, rotation, scale, shear, elastic are {strengths} and "
            f"knots {knots}; expected finite numbers of at least 0 and at "
            "least 2 knots. A strength of 0 leaves its distortion out."
        )
    n, size = len(images), (images.shape[2], images.shape[3])
    matrices = random_matrices(n, rng, rotation, scale, shear)
    shifts = rng.uniform(-shift, shift, (n, 2))
    rows, columns = affine_grid(
        matrices.astype(np.float32), shifts.astype(np.float32), size
    )
    if elastic > 0:
        field = elastic_field(n, size, rng, elastic, knots)
        rows, columns = rows + field[0], columns + field[1]
    return grid_sample(images, rows, columns, fill)
