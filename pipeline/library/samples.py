"""Samples of published masks: rows, their images read by range, both in one frame."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from pipeline.errors import ManifestError, ShardError
from pipeline.images.decode import ImageRejection, decode_image
from pipeline.images.orientation import turn_upright
from pipeline.published.corrected_rows import CorrectedRows
from pipeline.published.filters import RowFilter
from pipeline.published.images import IMAGE_COLUMNS, ImageReader
from pipeline.published.rows import MaskRow
from pipeline.published.run import PublishedRun
from pipeline.run.records import MANIFEST_SCHEMA, InputShard, Status

SAMPLE_COLUMNS = ("status", "exif_orientation", "mask", *IMAGE_COLUMNS)
"""Columns that a sample needs."""
DEFAULT_COLUMNS = tuple(name for name in MANIFEST_SCHEMA.names if name != "class_maps")
"""Columns of rows unless others are named: all but the class maps, which are larger than all others."""
TURNED_BACK = {6: 8, 8: 6}
"""Orientations whose turn is not undone by itself, and those that undo it."""

Transform = Callable[["MaskSample"], Any]


class MaskSample(NamedTuple):
    """A photo with its mask; both upright, or both as stored."""

    image: Image.Image
    """In RGB."""
    mask: UInt8[np.ndarray, "h w"]
    """Class of each pixel: 0 background, 255 ignored."""
    row: MaskRow
    """Columns of the manifest."""


@dataclass(frozen=True, kw_only=True)
class SampleReader:
    """Reads samples of a run; picklable, and without open files."""

    rows: CorrectedRows
    """Of the run, with corrected masks unless they were declined."""
    row_filter: RowFilter
    columns: tuple[str, ...]
    """Columns of rows, besides those that a sample needs."""
    upright: bool
    """Whether images and masks are turned by the EXIF orientation."""
    transform: Transform | None
    """Applied to each sample; None: samples stay as they are."""

    @property
    def run(self) -> PublishedRun:
        """The run."""
        return self.rows.run

    def iterate_rows(
        self, shard: InputShard, columns: Sequence[str], groups: Sequence[int] | None = None
    ) -> Iterator[MaskRow]:
        """Read the kept rows of a shard, or of some of its row groups.

        Raises:
            ManifestError: The manifest or a corrected mask is damaged.
        """
        return self.rows.iterate(self.run.locate(shard), self.row_filter, columns, groups)

    def count(self, shard: InputShard) -> list[int]:
        """Count the kept rows of each row group of a shard.

        Raises:
            ManifestError: The manifest is damaged.
        """
        return self.rows.count(self.run.locate(shard), self.row_filter)

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in MANIFEST_SCHEMA.names:
                alike = difflib.get_close_matches(name, MANIFEST_SCHEMA.names, n=1, cutoff=0.5)
                advice = f"did you mean {alike[0]!r}?" if alike else f"there are {', '.join(MANIFEST_SCHEMA.names)}"
                raise ValueError(f"manifests have no column {name!r}; {advice}")

    def require_masks(self) -> None:
        """Check that all rows that the filter keeps have a mask.

        Raises:
            ValueError: The filter keeps rejected rows.
        """
        statuses = self.row_filter.statuses
        if not statuses or set(statuses) != {Status.LABELLED}:
            raise ValueError("rejected rows have no mask; iterate over rows() instead, or leave out statuses")

    def read_rows(self, shard: InputShard, groups: Sequence[int], num_expected: int) -> list[MaskRow]:
        """Read the kept rows of some row groups.

        Raises:
            ManifestError: The manifest is damaged, or has another number of such rows than before.
        """
        columns = tuple(dict.fromkeys((*self.columns, *SAMPLE_COLUMNS)))
        rows = list(self.iterate_rows(shard, columns, groups))
        if len(rows) != num_expected:
            raise ManifestError(
                f"the manifest of shard '{shard.name}' has changed since the run was opened: {len(rows)} rows in place "
                f"of {num_expected}; open the run again"
            )
        return rows

    def read_samples(self, shard: InputShard, rows: Sequence[MaskRow], images: ImageReader) -> Iterator[Any]:
        """Read the images of rows, and make samples of both, in the order of the rows.

        Raises:
            ShardError: The shard or an image is gone or changed.
            ManifestError: A mask is damaged.
        """
        for row, payload in zip(rows, _read_images(shard, rows, images), strict=True):
            yield self.make_sample(row, payload)

    def make_sample(self, row: MaskRow, payload: bytes) -> Any:
        """Make the sample of a row and its encoded image, and apply the transform.

        Raises:
            ShardError: The image cannot be decoded.
            ManifestError: The mask is damaged.
        """
        mask = row.upright_mask() if self.upright else row.mask()
        sample = MaskSample(self.decode(row, payload), mask, row)
        return sample if self.transform is None else self.transform(sample)

    def decode(self, row: MaskRow, payload: bytes) -> Image.Image:
        """Decode the image of a row.

        Raises:
            ShardError: It cannot be decoded.
        """
        found = decode_image(payload, max_pixels=self.run.config.inputs.max_image_pixels)
        if isinstance(found, ImageRejection):
            raise ShardError(f"the image of key '{row.key}' of shard '{row.shard_name}': {found.error}")
        pixels: Shaped[np.ndarray, "h w 3"] = found.image_rgb
        if not self.upright:
            back = TURNED_BACK.get(found.exif_orientation, found.exif_orientation)
            pixels = np.ascontiguousarray(turn_upright(pixels, back))
        return Image.fromarray(pixels)


def _read_images(shard: InputShard, rows: Sequence[MaskRow], images: ImageReader) -> Iterable[bytes]:
    in_order = all(before.index < after.index for before, after in pairwise(rows))
    # Images that cannot be read alone are read in groups, and the reader keeps those of the last groups.
    is_alone = shard.is_index or (not shard.is_parquet and all(row.get("image_offset") is not None for row in rows))
    return images.read_many(rows) if in_order or is_alone else map(images.read, rows)
