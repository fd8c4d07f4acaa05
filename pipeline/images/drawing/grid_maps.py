"""Class maps of one image on small grids, and their values at pixels of the image.

The maps of an image come from a few hundred patches, or from its pixels at the size of a guide. No map at image size is
ever made: a mask is drawn in tiles, and extremes and statistics need few pixels.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.images.map_range import find_constant

TILE_PIXELS = 65_536
"""Most pixels of a tile: its values stay in the cache of a core."""

MAX_TILE_SIDE = 16_384
"""Longest side of a tile in pixels; few images have a longer one, and lines of millions of pixels are not kept."""

LONG_ROWS = 8
"""Rows between two lines of cells, in the mean, from which they are filled together."""

NUM_REMEMBERED = 64
"""Pairs of a number of cells and of pixels whose neighbours are remembered: the photos of a source have few sizes."""


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
        is_constant = find_constant(low, high)
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

    def iterate_tiles(self) -> Iterator[tuple[tuple[slice, slice], Float[np.ndarray, "k tile_h tile_w"]]]:
        """Values of the maps at all pixels, in tiles: bands of rows, of an image of usual width.

        Yields:
            Rows and columns of a tile, and its values, which the caller may change.
        """
        height, width = self.size
        for columns in _cut(0, width, MAX_TILE_SIDE):
            wide = [_WideGrid(grid, self._list_neighbours(grid, 1, columns)) for grid in self._grids]
            for block in _cut(0, height, MAX_TILE_SIDE):
                lines = [self._list_neighbours(grid, 0, block) for grid in self._grids]
                for rows in _cut(block.start, block.stop, max(1, TILE_PIXELS // (columns.stop - columns.start))):
                    within = slice(rows.start - block.start, rows.stop - block.start)
                    shape = (self.num_classes, rows.stop - rows.start, columns.stop - columns.start)
                    yield (rows, columns), _sum_filled(wide, lines, within, shape)

    def _find_neighbours(self, grid: Float[np.ndarray, "k gh gw"], axis: int, positions: np.ndarray) -> _Neighbours:
        return _find_neighbours(grid.shape[axis + 1], self.size[axis], positions)

    def _list_neighbours(self, grid: Float[np.ndarray, "k gh gw"], axis: int, part: slice) -> _Neighbours:
        num_cells, num_pixels = grid.shape[axis + 1], self.size[axis]
        if part == slice(0, num_pixels):
            return _list_neighbours(num_cells, num_pixels)
        return _find_neighbours(num_cells, num_pixels, np.arange(part.start, part.stop))

    def _find_lines(self, axis: int) -> Int[np.ndarray, " n"]:
        """Pixels along an axis next to the centre of a cell of any grid, and the outermost pixels."""
        return _list_lines(frozenset(grid.shape[axis + 1] for grid in self._grids), self.size[axis])


class _WideGrid:
    """A grid at the width of a tile."""

    def __init__(self, grid: Float[np.ndarray, "k gh gw"], columns: _Neighbours) -> None:
        self._wide = _mix_columns(grid, columns)
        # From each line of cells to the next one; the last one has none.
        self._steps = np.zeros_like(self._wide)
        np.subtract(self._wide[:, 1:], self._wide[:, :-1], out=self._steps[:, :-1])

    def fill(self, lines: _Neighbours, rows: slice, values: Float[np.ndarray, "k tile_h tile_w"]) -> None:
        """Write the values of some rows of those whose neighbours are given."""
        first, weight = lines.first[rows], lines.weight[rows, None]
        ends = [*(np.flatnonzero(first[1:] != first[:-1]) + 1).tolist(), len(first)]
        if len(first) < LONG_ROWS * len(ends):
            np.multiply(self._steps.take(first, 1), weight, out=values)
            values += self._wide.take(first, 1)
            return
        start = 0
        for end in ends:
            cell, part = first[start], values[:, start:end]
            np.multiply(self._steps[:, cell, None], weight[start:end], out=part)
            part += self._wide[:, cell, None]
            start = end


def _sum_filled(
    wide: Sequence[_WideGrid], lines: Sequence[_Neighbours], rows: slice, shape: tuple[int, int, int]
) -> Float[np.ndarray, "k tile_h tile_w"]:
    total = np.empty(shape, np.float32)
    wide[0].fill(lines[0], rows, total)
    for grid, own_lines in zip(wide[1:], lines[1:], strict=True):
        added = np.empty_like(total)
        grid.fill(own_lines, rows, added)
        total += added
    return total


def _cut(start: int, stop: int, most: int) -> Iterator[slice]:
    """Cut a range into parts of at most `most`."""
    for begin in range(start, stop, most):
        yield slice(begin, min(begin + most, stop))


@lru_cache(NUM_REMEMBERED)
def _list_neighbours(num_cells: int, num_pixels: int) -> _Neighbours:
    """Neighbours of all pixels along an axis; not to be changed."""
    return _find_neighbours(num_cells, num_pixels, np.arange(num_pixels))


def _find_neighbours(num_cells: int, num_pixels: int, positions: Int[np.ndarray, " n"]) -> _Neighbours:
    at = np.maximum((positions + 0.5) * (num_cells / num_pixels) - 0.5, 0.0)
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
