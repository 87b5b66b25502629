"""Windows: counted one by one, beside PyTorch's unfold and fold; misuse."""

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import example, given
from hypothesis import strategies as st

from cnn.windows import (
    col2im,
    from_chwn,
    im2col,
    output_size,
    pad,
    pair,
    strided_slice,
    to_chwn,
)


@st.composite
def cases(draw):
    """The shape of x, and kernel, stride and padding that fit on it."""
    sizes = [draw(st.integers(1, 8)) for _ in range(2)]
    padding = [draw(st.integers(0, 3)) for _ in range(2)]
    kernel = [
        draw(st.integers(1, h + 2 * p))
        for h, p in zip(sizes, padding, strict=True)
    ]
    stride = [draw(st.integers(1, 4)) for _ in range(2)]
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *sizes)
    return shape, (tuple(kernel), tuple(stride), tuple(padding))


# Cases that must be among those tried, whatever hypothesis draws.
LEFTOVER = ((2, 2, 8, 8), ((3, 3), (2, 2), (0, 0)))  # row 7 is never read
OF_THE_FRAME = ((1, 1, 6, 6), ((3, 3), (2, 2), (1, 1)))  # row 6, below x
RECTANGULAR = ((2, 3, 7, 5), ((2, 4), (3, 1), (0, 2)))
GAPS = ((2, 2, 7, 7), ((1, 2), (3, 4), (0, 0)))  # stride beyond the kernel
NAMED = (LEFTOVER, OF_THE_FRAME, RECTANGULAR, GAPS)


def in_turn(test):
    """Run a test of drawn cases on the named ones too."""
    for case in NAMED:
        test = example(case)(test)
    return test


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def as_in_torch(columns, n):
    """(C*k*k, H'*W'*N) -> (N, C*k*k, H'*W'), as unfold has them."""
    return np.moveaxis(columns.reshape(len(columns), -1, n), -1, 0)


def from_torch(columns):
    """(N, C*k*k, H'*W') -> (C*k*k, H'*W'*N)."""
    return np.moveaxis(columns, 0, -1).reshape(columns.shape[1], -1)


# --- sizes ------------------------------------------------------------------


@given(
    h=st.integers(1, 40),
    k=st.integers(1, 12),
    s=st.integers(1, 9),
    p=st.integers(0, 6),
)
def test_output_size_counts_the_windows_that_fit(h, k, s, p):
    starts = [a for a in range(0, h + 2 * p, s) if a + k <= h + 2 * p]
    if not starts:
        with pytest.raises(ValueError, match="larger than the input"):
            output_size((h, h), k, s, p)
        return
    assert output_size((h, h), k, s, p) == (len(starts), len(starts))


def test_output_size_takes_each_axis_by_itself():
    assert output_size((5, 6), 3) == (3, 4)  # steps of 1, no frame
    assert output_size((28, 28), 3, 2, 1) == (14, 14)
    assert output_size((8, 9), (1, 3), (2, 4), (0, 1)) == (4, 3)


def test_pair():
    assert pair(3, "stride", 1) == (3, 3)
    assert pair((0, 2), "padding", 0) == (0, 2)
    assert pair(np.int64(2), "stride", 1) == (2, 2)


@pytest.mark.parametrize(
    ("size", "least"),
    [
        (0, 1),
        (-1, 0),
        ((1, 0), 1),
        (1.5, 1),
        ("same", 0),
        ((3,), 1),
        (None, 1),
    ],
)
def test_nonsense_is_refused(size, least):
    with pytest.raises(
        ValueError,
        match=in_order(
            f"stride is {size!r}; expected an int or a pair",
            *(f"at least {least}", "Pass one number, or (rows, columns)"),
        ),
    ):
        pair(size, "stride", least)


# --- im2col and col2im ------------------------------------------------------


@in_turn
@given(cases())
def test_im2col_agrees_with_unfold(case):
    shape, sizes = case
    x = numbers(shape)
    kernel, stride, padding = sizes
    theirs = torch.nn.functional.unfold(
        torch.from_numpy(x), kernel, stride=stride, padding=padding
    )
    ours = as_in_torch(im2col(x, *sizes), len(x))
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_array_equal(ours, theirs.numpy())


@in_turn
@given(cases())
def test_col2im_agrees_with_fold(case):
    shape, sizes = case
    kernel, stride, padding = sizes
    rows, cols = output_size(shape[2:], *sizes)
    channels = shape[1] * kernel[0] * kernel[1]
    columns = numbers((shape[0], channels, rows * cols))
    theirs = torch.nn.functional.fold(
        torch.from_numpy(columns), shape[2:], kernel, 1, padding, stride
    )
    ours = col2im(from_torch(columns), shape, *sizes)
    assert ours.shape == tuple(theirs.shape) == shape
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-10)


@in_turn
@given(cases())
def test_col2im_is_the_transpose_of_im2col(case):
    """<im2col(x), y> = <x, col2im(y)>."""
    shape, sizes = case
    x = numbers(shape)
    columns = im2col(x, *sizes)
    y = numbers(columns.shape, seed=1)
    image = col2im(y, shape, *sizes)
    assert image.shape == shape
    np.testing.assert_allclose(
        np.sum(columns * y), np.sum(x * image), rtol=0, atol=1e-9
    )


def test_five_numbers_and_a_pencil():
    columns = np.arange(1.0, 10).reshape(3, 3)
    image = col2im(columns, (1, 1, 1, 5), (1, 3))
    assert image.ravel().tolist() == [1, 6, 15, 14, 9]


def test_the_windows_of_the_four_by_four_image():
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    windows = [
        image[0, 0, i : i + 3, j : j + 3].ravel()
        for i in (0, 1)
        for j in (0, 1)
    ]
    np.testing.assert_array_equal(im2col(image, 3), np.transpose(windows))


def test_each_pixel_collects_once_for_each_window_that_reads_it():
    ones = np.ones_like(im2col(np.zeros((1, 1, 6, 6)), 3, 2))
    counts = col2im(ones, (1, 1, 6, 6), 3, 2)[0, 0]
    along = np.array([1, 1, 2, 1, 1, 0])  # row 5 of the image is not read
    np.testing.assert_array_equal(counts, np.outer(along, along))
    ones = np.ones_like(im2col(np.zeros((1, 1, 6, 6)), 3, 2, 1))
    counts = col2im(ones, (1, 1, 6, 6), 3, 2, 1)[0, 0]
    along = np.array([1, 2, 1, 2, 1, 1])  # only a row of the frame is not
    np.testing.assert_array_equal(counts, np.outer(along, along))


# --- memory -----------------------------------------------------------------


def test_batch_last_and_back():
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    block = to_chwn(x)
    assert block.shape == (3, 4, 5, 2)
    assert block.flags.c_contiguous
    assert block[1, 2, 3, 1] == x[1, 1, 2, 3]
    back = from_chwn(block)
    np.testing.assert_array_equal(back, x)
    assert np.shares_memory(back, block)
    assert to_chwn(back).ctypes.data == block.ctypes.data


def test_pad():
    block = np.ones((1, 2, 3, 1))
    assert pad(block, 0) is block
    framed = pad(block, (1, 2), -np.inf)
    assert framed.shape == (1, 4, 7, 1)
    assert (framed[:, 1:3, 2:5] == 1).all()
    assert np.isneginf(framed).sum() == 4 * 7 - 6
    assert not pad(block, 1)[:, 0].any()


def test_strided_slice_is_a_view():
    block = np.arange(48.0).reshape(1, 6, 8, 1)
    view = strided_slice(block, (1, 2), (2, 3), (3, 2))
    np.testing.assert_array_equal(view[0, :, :, 0], block[0, 1:6:3, 2:8:2, 0])
    assert np.shares_memory(view, block)


@pytest.mark.parametrize("case", NAMED)
def test_im2col_is_a_copy_and_nothing_given_is_written_into(case):
    shape, sizes = case
    x = numbers(shape)
    columns = im2col(x, *sizes)
    assert columns.flags.c_contiguous
    assert not np.shares_memory(columns, x)
    for array in (x, columns):
        array.flags.writeable = False  # writing raises
    im2col(x, *sizes)
    col2im(columns, shape, *sizes)
    pad(x, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    x = np.ones((2, 1, 4, 4), dtype)
    columns = im2col(x, 3, 1, 1)
    assert columns.dtype == dtype
    assert col2im(columns, x.shape, 3, 1, 1).dtype == dtype


# --- misuse -----------------------------------------------------------------


def test_a_window_larger_than_the_framed_image():
    with pytest.raises(
        ValueError,
        match=in_order(
            *((2, 7), "larger than the input", (9, 4), (0, 1)),
            *("expected it to fit", "smaller kernel"),
        ),
    ):
        im2col(np.zeros((1, 1, 9, 4)), (2, 7), 1, (0, 1))


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (0, 1, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(
        ValueError,
        match=in_order(
            *("im2col was given", shape),
            "expected (N, C, H, W)",
        ),
    ):
        im2col(np.zeros(shape), 3)
