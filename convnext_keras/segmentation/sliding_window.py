"""Sliding windows over images of any size, with the memory of a few windows."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

MAX_BLOCK = 2**24  # numbers of resized logits that are in memory at a time
STRIP_CELLS = 8  # cells side by side, for which the logits of the windows over them are kept


class Taps(NamedTuple):
    """Bilinear interpolation along one axis: the two positions that are mixed, and the part of the second.

    Attributes:
        lower: `(n,)` whole numbers.
        upper: `(n,)` whole numbers.
        fraction: `(n,)` float32.
    """

    lower: np.ndarray
    upper: np.ndarray
    fraction: np.ndarray

    def select(self, part: slice) -> "Taps":
        """Returns the taps of some positions."""
        return Taps(*(values[part] for values in self))


def bilinear_taps(size: int, new_size: int) -> Taps:
    """Returns the taps of PyTorch's bilinear resize without aligned corners, from `size` to `new_size` positions.

    Example:
        >>> bilinear_taps(2, 4).fraction.tolist()
        [0.0, 0.25, 0.75, 0.0]
    """
    centers = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    lower = centers.astype(int)
    return Taps(lower, np.minimum(lower + 1, size - 1), (centers - lower).astype("float32"))


def interpolate(maps: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Resizes a map `(h, w, C)` to the positions of the taps, `(H, W, C)`."""
    part = rows.fraction[:, None, None]
    maps = maps[rows.lower] * (1 - part) + maps[rows.upper] * part
    part = columns.fraction[:, None]
    return maps[:, columns.lower] * (1 - part) + maps[:, columns.upper] * part


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Returns the first positions of windows that cover an edge; the last window ends with the edge.

    Example:
        >>> window_starts(1000, 640, 426)
        [0, 360]
    """
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + stride, stride)})


class Cell(NamedTuple):
    """Positions along one axis that the same windows cover.

    Attributes:
        first: First position.
        end: Position after the last.
        windows: First positions of the windows over it.
    """

    first: int
    end: int
    windows: list[int]


def cells(starts: list[int], window: int, max_length: int) -> Iterator[Cell]:
    """Yields the cells of an axis in order, at most `max_length` positions long."""
    bounds = sorted({*starts, *(start + window for start in starts)})
    for first, end in itertools.pairwise(bounds):
        over = [start for start in starts if start <= first and end <= start + window]
        for begin in range(first, end, max_length):
            yield Cell(begin, min(begin + max_length, end), over)


def mean_logits(
    run: Callable[[int, int], np.ndarray], size: tuple[int, int], window: int, stride: int
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yields the logits of an image part by part, each the mean over the windows that cover it.

    The logits of a window are resized to its size and then averaged, as mmsegmentation's `mode="slide"` does.

    Args:
        run: Function from the top and left of a window to its logits `(h, w, C)`, of any resolution.
        size: Height and width of the image in pixels, at least those of a window.
        window: Height and width of a window in pixels.
        stride: Distance of windows in pixels.

    Yields:
        Rows and columns of a part, and its logits.
    """
    starts = [window_starts(edge, window, stride) for edge in size]
    columns = [*cells(starts[1], window, window)]
    for number in range(0, len(columns), STRIP_CELLS):
        strip = columns[number : number + STRIP_CELLS]
        known: dict[tuple[int, int], np.ndarray] = {}
        for row in cells(starts[0], window, max(1, MAX_BLOCK // window**2)):
            known = {key: logits for key, logits in known.items() if key[0] >= row.windows[0]}
            for column in strip:
                total: np.ndarray | None = None
                for key in itertools.product(row.windows, column.windows):
                    known[key] = logits = run(*key) if key not in known else known[key]
                    taps = [
                        bilinear_taps(length, window).select(slice(cell.first - start, cell.end - start))
                        for length, cell, start in zip(logits.shape, (row, column), key, strict=False)
                    ]
                    part = interpolate(logits, *taps)
                    total = part if total is None else total + part
                if total is not None:
                    place = slice(row.first, row.end), slice(column.first, column.end)
                    yield place, total / (len(row.windows) * len(column.windows))
