"""Rows of published manifests with their corrected masks, and filters that see what rows are once they are corrected.

Row groups without a corrected mask are read as `rows` reads them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.errors import ManifestError
from pipeline.images.decode import UNREADABLE_ERRORS, open_image
from pipeline.images.encoded.exif import read_exif_orientation
from pipeline.published.filters import RowFilter
from pipeline.published.overrides import Overrides
from pipeline.published.rows import NAMING_COLUMNS, MaskRow, OpenManifest, open_rows
from pipeline.published.run import PublishedRun

CORRECTION_COLUMNS = ("image_sha256",)
"""Columns that tell whether a corrected mask applies."""
PROVENANCE = ("override_tool", "override_source", "override_annotator", "override_time")
"""Values that a corrected row has besides its columns."""
_OF_FRAME = ("width", "height", "exif_orientation")
"""Columns that rows lack which were rejected before their image was decoded."""
_OF_MASK_BEFORE = (
    *("error", "ignore_fraction", "background_fraction", "margin_mean", "entropy_mean"),
    *("suggested_class_ids", "doubtful_class_ids", "classes", "class_maps"),
)
"""Columns that describe the mask that was replaced, or are in the order of its classes."""


def correct_row(overrides: Overrides, row: MaskRow) -> MaskRow:
    """Put the corrected mask into a row; a row without one is given back as it is.

    Columns that describe the mask before become None. A row that was rejected before its image was decoded gets size
    and orientation of the image, so that its mask is turned as the image is.

    Raises:
        ManifestError: The file of the mask is gone or damaged.
        StorageError: The store failed.
    """
    found = overrides.find(row)
    if found is None:
        return row
    changes: dict[str, Any] = dict.fromkeys(_OF_MASK_BEFORE)
    if any(name in row.values and row.values[name] is None for name in _OF_FRAME):
        changes |= _read_frame(overrides.read_png(found), row)
    corrected = overrides.apply(row)
    return replace(corrected, values={name: changes.get(name, value) for name, value in corrected.values.items()})


def _read_frame(png: bytes, row: MaskRow) -> dict[str, int]:
    """Size and orientation of the image that a mask belongs to."""
    try:
        with open_image(png, ["PNG"]) as image:
            # EXIF may follow the pixels.
            image.load()
            orientation = read_exif_orientation(image.info.get("exif", b""))
            return {"width": image.width, "height": image.height, "exif_orientation": orientation}
    except UNREADABLE_ERRORS as error:
        raise ManifestError(
            f"the corrected mask of row '{row.key}' of shard '{row.shard_name}' is damaged: {error}; import it again"
        ) from error


@dataclass(frozen=True)
class CorrectedRows:
    """Reads rows of one run. It can be pickled."""

    run: PublishedRun
    overrides: Overrides = field(default_factory=Overrides)

    @cached_property
    def _places(self) -> Mapping[str, Sequence[int]]:
        """Indices of the rows with a corrected mask, by shard."""
        places: dict[str, list[int]] = defaultdict(list)
        for row_id in self.overrides:
            places[row_id.shard].append(row_id.place)
        return {shard: sorted(some) for shard, some in places.items()}

    def iterate(
        self,
        manifest_uri: str,
        row_filter: RowFilter,
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,
    ) -> Iterator[MaskRow]:
        """Read the kept rows of a manifest, as `rows.iterate_rows` does.

        Raises:
            ManifestError: The manifest or a corrected mask is damaged, gone or of another run.
            VocabularyError: The run lacks a class of the filter.
        """
        with open_rows(self.run, manifest_uri) as manifest:
            corrected = self._find_groups(manifest)
            for group in range(manifest.num_row_groups) if row_groups is None else row_groups:
                if group in corrected:
                    yield from self._correct(manifest, group, row_filter, columns)
                else:
                    yield from manifest.iterate_rows(row_filter, columns, [group])

    def count(self, manifest_uri: str, row_filter: RowFilter) -> list[int]:
        """Count the kept rows of each row group, as `rows.count_rows` does.

        Raises:
            ManifestError: The manifest is damaged or of another run.
            VocabularyError: The run lacks a class of the filter.
        """
        with open_rows(self.run, manifest_uri) as manifest:
            corrected = self._find_groups(manifest)
            return [
                sum(1 for _ in self._correct(manifest, group, row_filter, ()))
                if group in corrected
                else manifest.count(group, row_filter)
                for group in range(manifest.num_row_groups)
            ]

    def _find_groups(self, manifest: OpenManifest) -> frozenset[int]:
        """Numbers of the row groups with a corrected mask."""
        places = self._places.get(manifest.shard_name)
        if not places:
            return frozenset()
        ends = np.cumsum([manifest.count(group) for group in range(manifest.num_row_groups)])
        return frozenset(np.searchsorted(ends, places, side="right").tolist())

    def _correct(
        self, manifest: OpenManifest, group: int, row_filter: RowFilter, columns: Sequence[str] | None
    ) -> Iterator[MaskRow]:
        settled = row_filter.settle(self.run)
        needed = None if columns is None else tuple(dict.fromkeys((*columns, *settled.columns, *CORRECTION_COLUMNS)))
        wanted = None if columns is None else {*columns, *NAMING_COLUMNS, *PROVENANCE}
        for row in (correct_row(self.overrides, one) for one in manifest.read_rows(group, needed)):
            if settled.keeps(row):
                values = {name: value for name, value in row.values.items() if wanted is None or name in wanted}
                yield replace(row, values=values)
