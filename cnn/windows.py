# Written by book/layers/windows.md. To keep edits: tangle.py --back.
"""Windows: where a small window fits on an image, and who sees whom."""

from operator import index

import numpy as np

from cnn.data import check_arrays


# An int serves both axes; a pair is (rows, columns).
Pair = tuple[int, int]
Size = int | Pair


def pair(size: Size, name: str, least: int) -> Pair:
    """(rows, columns) of a size that is one int or a pair of ints.

    ValueError, which calls it name, if one is not whole or is below least.
    """
    both = size if isinstance(size, tuple | list) else (size, size)
    try:  # asked at each step, and quicker than a look at each type
        rows, columns = map(index, both)
    except (TypeError, ValueError):  # not whole, or not two
        rows = columns = least - 1
    if rows < least or columns < least:
        raise ValueError(
            f"{name} is {size!r}; expected an int or a pair of ints, each "
            f"at least {least}. Pass one number, or (rows, columns)."
        )
    return rows, columns


def output_size(
    input_size: Pair, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> Pair:
    """How many windows fit, down and across: (H', W').

    input_size: (H, W), the image's rows and columns.
    kernel_size, stride, padding: k, s and p, each an int or a pair.
    ValueError if not even one window fits.
    Equation: eq-windows-size.
    """
    input_size = pair(input_size, "input_size", 1)
    kernel = pair(kernel_size, "kernel_size", 1)
    steps, around = pair(stride, "stride", 1), pair(padding, "padding", 0)
    sizes = zip(input_size, kernel, steps, around, strict=True)
    rows, columns = ((h + 2 * p - k) // s + 1 for h, k, s, p in sizes)
    if rows < 1 or columns < 1:
        raise ValueError(
            f"kernel_size {kernel_size} is larger than the input "
            f"{input_size} with padding {padding}; expected it to fit at "
            "least once. If the axes are (N, C, H, W), use a smaller kernel "
            "or more padding."
        )
    return rows, columns


def to_chwn(x: np.ndarray) -> np.ndarray:
    """x, (N, C, H, W), as a block (C, H, W, N); copied unless it is one."""
    return np.ascontiguousarray(x.transpose(1, 2, 3, 0))


def from_chwn(block: np.ndarray) -> np.ndarray:
    """A block (C, H, W, N) seen as (N, C, H, W): the same memory."""
    return block.transpose(3, 0, 1, 2)


def pad(block: np.ndarray, padding: Size, value: float = 0.0) -> np.ndarray:
    """A block, (C, H, W, N), in a frame padding wide that holds value."""
    rows, columns = pair(padding, "padding", 0)
    if rows == columns == 0:
        return block
    channels, height, width, n = block.shape
    framed = channels, height + 2 * rows, width + 2 * columns, n
    y = np.full(framed, value, block.dtype)  # np.pad would take longer
    y[:, rows : rows + height, columns : columns + width] = block
    return y


def strided_slice(
    block: np.ndarray, offset: Pair, size: Pair, stride: Size
) -> np.ndarray:
    """The pixel at one place of every window, as a view of the block.

    block: (C, H, W, N), its frame included -> (C, H', W', N).
    offset: (u, v) in the window; size: (H', W'); stride: from one to the next.
    Equation: eq-windows-read.
    """
    (u, v), (rows, cols) = offset, size
    down, right = pair(stride, "stride", 1)
    return block[:, u : u + down * rows : down, v : v + right * cols : right]


def im2col(
    x: np.ndarray, kernel_size: Size, stride: Size = 1, padding: Size = 0
) -> np.ndarray:
    """Every window of every image as a column of one matrix: a copy.

    x: images, (N, C, H, W) -> (C*k*k, H'*W'*N), in k*k slice copies.
    kernel_size, stride, padding: k, s and p, each an int or a pair.
    ValueError if x has other axes, or no window fits.
    Equation: eq-windows-im2col.
    """
    (x,) = check_arrays("im2col", "x (N, C, H, W)", x)
    kernel = pair(kernel_size, "kernel_size", 1)
    size = output_size(x.shape[2:], kernel, stride, padding)
    block = pad(to_chwn(x), padding)  # (C, H + 2p, W + 2p, N)
    columns = np.empty((len(block), *kernel, *size, len(x)), x.dtype)
    for u, v in np.ndindex(kernel):
        columns[:, u, v] = strided_slice(block, (u, v), size, stride)
    # (C, k, k, H', W', N) -> (C*k*k, H'*W'*N)
    return columns.reshape(-1, size[0] * size[1] * len(x))


def col2im(
    columns: np.ndarray,
    input_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
) -> np.ndarray:
    """The transpose of im2col: each entry is added to the pixel it copied.

    columns: (C*k*k, H'*W'*N) -> (N, C, H, W), which is input_shape.
    kernel_size, stride, padding: as im2col was given them.
    Equation: eq-windows-col2im.
    """
    n, channels, height, width = input_shape
    kernel = pair(kernel_size, "kernel_size", 1)
    top, left = pair(padding, "padding", 0)
    size = output_size((height, width), kernel, stride, padding)
    places = f"({channels * kernel[0] * kernel[1]}, {size[0] * size[1] * n})"
    (columns,) = check_arrays("col2im", f"columns {places}", columns)
    columns = columns.reshape(channels, *kernel, *size, n)
    framed = channels, height + 2 * top, width + 2 * left, n
    block = np.zeros(framed, columns.dtype)
    for u, v in np.ndindex(kernel):
        place = strided_slice(block, (u, v), size, stride)  # a view
        place += columns[:, u, v]  # windows overlap: +=, not =
    return from_chwn(block[:, top : top + height, left : left + width])
