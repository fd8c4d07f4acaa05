"""Class maps of one image on small grids, and their values at pixels of the image.

The maps of an image come from a few hundred patches, or from its pixels at the size of a guide. No map at image size is
ever made: a mask is drawn in bands of rows, and extremes and statistics need few pixels.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BAND_PIXELS = 65_536
"""Pixels of a band: its values stay in the cache of a core."""

LONG_ROWS = 8
"""Rows between two lines of cells from which they are filled together."""

NUM_REMEMBERED = 64
"""Pairs of a number of cells and of pixels whose neighbours are remembered: the photos of a source have few sizes."""

NOISE = 4 * float(np.finfo(np.float32).eps)
"""A map whose range is at most this share of its largest value is constant up to rounding."""


class _Neighbours(NamedTuple):
    """Cells of a grid to both sides of each position of the image, along one axis, and the weight of the second."""

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


class GridMaps:
    """Class maps of one image: grids whose sum, each resized bilinearly to the image, are the maps.

    Resizing is that of `torch.nn.functional.interpolate` with `align_corners=False` and no antialiasing.
    """

    def __init__(self, grids: Sequence[Float[np.ndarray, "k _ _"]], size: tuple[int, int]) -> None:
        """Keep grids of the same classes.

        Args:
            grids: At least one; their sizes may differ.
            size: Height and width of the image in pixels.
        """
        self._grids = tuple(np.ascontiguousarray(grid, dtype=np.float32) for grid in grids)
        self.size = size

    @property
    def num_classes(self) -> int:
        """Number of maps."""
        return len(self._grids[0])

    def multiply(self, factors: Float[np.ndarray, " k"]) -> "GridMaps":
        """Multiply each map by a factor."""
        return GridMaps([grid * factors.astype(np.float32)[:, None, None] for grid in self._grids], self.size)

    def select(self, which: Bool[np.ndarray, " k"] | Int[np.ndarray, " n"]) -> "GridMaps":
        """Select some maps, by flags or by their places in the wanted order."""
        return GridMaps([grid[which] for grid in self._grids], self.size)

    def scale_min_max(self) -> "GridMaps":
        """Scale each map to [0, 1] by its extremes over the pixels of the image; a constant map becomes zero.

        The extremes are exact: between the lines of cells a bilinear map has them next to the lines. Values exceed
        the range by rounding only.
        """
        if self.num_classes == 0:
            return self
        nearby = self.sample(*(self._find_lines(axis) for axis in (0, 1)))
        low, high = nearby.min((1, 2), keepdims=True), nearby.max((1, 2), keepdims=True)
        spread = high - low
        is_constant = spread <= NOISE * np.maximum(abs(low), abs(high))
        factor = np.where(is_constant, 0, 1 / np.where(is_constant, 1, spread)).astype(np.float32)
        first, *others = self._grids
        return GridMaps([(first - low) * factor, *(grid * factor for grid in others)], self.size)

    def sample(self, rows: Int[np.ndarray, " r"], columns: Int[np.ndarray, " c"]) -> Float[np.ndarray, "k r c"]:
        """Values of the maps at the crossings of some rows and columns of the image."""
        parts = [
            _mix_rows(_mix_columns(grid, self._find_neighbours(grid, 1, columns)), self._find_neighbours(grid, 0, rows))
            for grid in self._grids
        ]
        return sum(parts[1:], start=parts[0])

    def iterate_bands(self) -> Iterator[tuple[slice, Float[np.ndarray, "k band_h w"]]]:
        """Values of the maps at all pixels, in bands of rows from the top; each with its rows."""
        height, width = self.size
        num_rows = max(1, BAND_PIXELS // width)
        wide = [_WideGrid(grid, height, width) for grid in self._grids]
        for top in range(0, height, num_rows):
            rows = slice(top, min(top + num_rows, height))
            band = np.empty((self.num_classes, rows.stop - top, width), np.float32)
            wide[0].fill(rows, band)
            for one in wide[1:]:
                added = np.empty_like(band)
                one.fill(rows, added)
                band += added
            yield rows, band

    def _find_neighbours(self, grid: Float[np.ndarray, "k gh gw"], axis: int, positions: np.ndarray) -> _Neighbours:
        every = _list_neighbours(grid.shape[axis + 1], self.size[axis])
        return _Neighbours(*(values[positions] for values in every))

    def _find_lines(self, axis: int) -> Int[np.ndarray, " n"]:
        """Pixels along an axis next to the centre of a cell of any grid, and the outermost pixels."""
        return _list_lines(frozenset(grid.shape[axis + 1] for grid in self._grids), self.size[axis])


class _WideGrid:
    """A grid at the width of the image."""

    def __init__(self, grid: Float[np.ndarray, "k gh gw"], height: int, width: int) -> None:
        self._wide = _mix_columns(grid, _list_neighbours(grid.shape[2], width))
        self._rows = _list_neighbours(grid.shape[1], height)
        # From each line of cells to the next one; the last one has none.
        self._steps = np.zeros_like(self._wide)
        np.subtract(self._wide[:, 1:], self._wide[:, :-1], out=self._steps[:, :-1])
        self._has_long_rows = height >= LONG_ROWS * grid.shape[1]

    def fill(self, rows: slice, values: Float[np.ndarray, "k band_h w"]) -> None:
        """Write the values of some rows of the image."""
        first, weight = self._rows.first[rows], self._rows.weight[rows, None]
        if not self._has_long_rows:
            np.multiply(self._steps.take(first, 1), weight, out=values)
            values += self._wide.take(first, 1)
            return
        ends = [*(np.flatnonzero(first[1:] != first[:-1]) + 1).tolist(), len(first)]
        start = 0
        for end in ends:
            cell, part = first[start], values[:, start:end]
            np.multiply(self._steps[:, cell, None], weight[start:end], out=part)
            part += self._wide[:, cell, None]
            start = end


@lru_cache(NUM_REMEMBERED)
def _list_neighbours(num_cells: int, num_pixels: int) -> _Neighbours:
    """Neighbours of all pixels along an axis; not to be changed."""
    at = np.maximum((np.arange(num_pixels) + 0.5) * (num_cells / num_pixels) - 0.5, 0.0)
    first = at.astype(np.intp)
    return _Neighbours(first, np.minimum(first + 1, num_cells - 1), (at - first).astype(np.float32))


@lru_cache(NUM_REMEMBERED)
def _list_lines(nums_cells: frozenset[int], num_pixels: int) -> Int[np.ndarray, " n"]:
    """Pixels along an axis next to the centre of a cell, and the outermost pixels; not to be changed."""
    found = [np.array([0.0, num_pixels - 1.0])]
    for num_cells in nums_cells:
        centres = (np.arange(num_cells) + 0.5) * (num_pixels / num_cells) - 0.5
        found += [np.floor(centres), np.ceil(centres)]
    return np.unique(np.concatenate(found).clip(0, num_pixels - 1).astype(np.intp))


def _mix_columns(grid: Float[np.ndarray, "k gh gw"], columns: _Neighbours) -> Float[np.ndarray, "k gh c"]:
    return _mix(grid.take(columns.first, 2), grid.take(columns.second, 2), columns.weight)


def _mix_rows(grid: Float[np.ndarray, "k gh c"], rows: _Neighbours) -> Float[np.ndarray, "k r c"]:
    return _mix(grid.take(rows.first, 1), grid.take(rows.second, 1), rows.weight[:, None])


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean, in the memory of the second, which is a copy."""
    second -= first
    second *= weight
    second += first
    return second
