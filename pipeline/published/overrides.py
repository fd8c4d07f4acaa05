"""Masks that persons corrected in other tools: Parquet files beside the manifests, one row a mask.

    OUT/overrides/IMPORT.parquet

A file is never changed. Of several masks of a row the one of the latest import counts; manifests stay as they are.
"""

import io
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from pipeline.errors import ManifestError
from pipeline.images.decode import UNREADABLE_ERRORS, open_image
from pipeline.images.encoded.exif import read_exif_orientation
from pipeline.images.masks import decode_mask, name_mask_file
from pipeline.published.decisions import RowId
from pipeline.published.rows import MaskRow
from pipeline.run.records import MASK, Status
from pipeline.run.run_file import read_run
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import open_random
from pipeline.storage.uris import join_uri

OVERRIDES_FOLDER = "overrides"
ROW_GROUP_MASKS = 64
"""Masks of a row group, which is what a reader of one mask reads."""
MAX_CACHED_GROUPS = 4
NUM_THREADS = 16

OVERRIDE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("mask", MASK, nullable=False),
        pa.field("class_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("tool", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        ("annotator", pa.string()),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        ("image_sha256", pa.string()),
        ("mask_sha256", pa.string()),
    ]
)
SMALL_COLUMNS = tuple(name for name in OVERRIDE_SCHEMA.names if name != "mask")
PROVENANCE = ("override_tool", "override_source", "override_annotator", "override_time")
"""Values that a corrected row has besides its columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One corrected mask, without its pixels."""

    shard: str
    """Name of the shard, which is that of its manifest without suffix."""
    index: int
    key: str
    class_ids: tuple[int, ...]
    """Classes that the mask shows, sorted, without the background."""
    tool: str
    """coco, cvat or label-studio."""
    source: str
    """What the annotation came from, such as the name of a file."""
    annotator: str | None = None
    time: datetime
    """Of the import, in UTC."""
    fingerprint: str
    """Of the run."""
    image_sha256: str | None
    mask_sha256: str | None
    """Digest of the mask that was corrected; None for a rejected row."""
    uri: str = ""
    """File that holds the mask."""
    place: int = 0
    """Of its row in that file, from 0."""

    @property
    def row_id(self) -> RowId:
        """The row that is corrected."""
        return RowId(self.shard, self.index)

    @property
    def rank(self) -> tuple[datetime, str, int]:
        """Of two masks of a row the one of higher rank counts: the later import."""
        return self.time, self.uri, self.place

    def applies_to(self, row: MaskRow) -> bool:
        """Whether a row still has the image that was drawn on, as far as it was read."""
        return "image_sha256" not in row.values or row.values["image_sha256"] == self.image_sha256


@dataclass(frozen=True)
class Overrides(Mapping[RowId, Override]):
    """The corrected masks that count, by row. It can be pickled, and then reads the same files."""

    by_row: Mapping[RowId, Override] = field(default_factory=dict)
    _groups: OrderedDict[tuple[str, int], list[bytes]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __getitem__(self, row_id: RowId) -> Override:
        return self.by_row[row_id]

    def __iter__(self) -> Iterator[RowId]:
        return iter(self.by_row)

    def __len__(self) -> int:
        return len(self.by_row)

    def __getstate__(self) -> dict[str, Any]:
        """Without the masks in memory."""
        return {"by_row": self.by_row, "_groups": OrderedDict()}

    def find(self, row: MaskRow) -> Override | None:
        """The corrected mask of a row; None if there is none, or the image of the row is another one now."""
        found = self.by_row.get(RowId(row.shard_name, row.index))
        return found if found is not None and found.applies_to(row) else None

    def read_png(self, override: Override) -> bytes:
        """Read the PNG of a mask, with the row group of its file that holds it.

        Raises:
            ManifestError: The file is gone or damaged.
            StorageError: The store failed.
        """
        group, place = divmod(override.place, ROW_GROUP_MASKS)
        masks = self._groups.get((override.uri, group))
        if masks is None:
            masks = _read_masks(override.uri, group)
            self._groups[override.uri, group] = masks
            while len(self._groups) > MAX_CACHED_GROUPS:
                self._groups.popitem(last=False)
        return masks[place]

    def read_mask(self, override: Override) -> UInt8[np.ndarray, "h w"]:
        """Decode a mask, on the stored pixels of its image.

        Raises:
            ManifestError: The file is gone, or it or the mask is damaged.
            StorageError: The store failed.
        """
        return decode_mask(self.read_png(override))

    def apply(self, row: MaskRow) -> MaskRow:
        """Put the corrected mask of a row in place of its own; a row without one is given back as it is.

        Columns that were not read stay unread. Figures about the mask before are None.

        Raises:
            ManifestError: The file of the mask is gone or damaged.
            StorageError: The store failed.
        """
        found = self.find(row)
        if found is None:
            return row
        changes: dict[str, Any] = {
            "status": str(Status.LABELLED),
            "reason": None,
            "error": None,
            "class_ids": list(found.class_ids),
            "quality": 1.0,
        } | dict.fromkeys(_OF_MASK_BEFORE)
        values = dict(row.values)
        if any(name in values and values[name] is None for name in _OF_FRAME):
            changes |= _read_frame(self.read_png(found))
        if "mask" in values:
            changes["mask"] = {"bytes": self.read_png(found), "path": name_mask_file(found.key)}
        values |= {name: value for name, value in changes.items() if name in values}
        provenance = (found.tool, found.source, found.annotator, found.time)
        return replace(row, values=values | dict(zip(PROVENANCE, provenance, strict=True)))


_OF_FRAME = ("width", "height", "exif_orientation")
"""Columns that rows lack which were rejected before their image was decoded."""
_OF_MASK_BEFORE = (
    *("ignore_fraction", "background_fraction", "margin_mean", "entropy_mean"),
    *("suggested_class_ids", "doubtful_class_ids", "classes", "class_maps"),
)
"""Columns that describe the mask that was replaced, or are in the order of its classes."""


def read_overrides(run_uri: str) -> Overrides:
    """Read the corrected masks of a run, without their pixels; none if there are none.

    Raises:
        ManifestError: The folder holds no run, or a file is damaged or of another run.
        StorageError: The store failed.
    """
    fingerprint = str(read_run(run_uri)["fingerprint"])
    objects = list_objects(join_uri(run_uri, OVERRIDES_FOLDER))
    uris = [item.uri for item in objects if item.uri.endswith(".parquet")]
    latest: dict[RowId, Override] = {}
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for found in threads.map(lambda uri: _read_file(uri, fingerprint), uris):
            for one in found:
                known = latest.get(one.row_id)
                if known is None or one.rank > known.rank:
                    latest[one.row_id] = one
    return Overrides(latest)


def encode_overrides(overrides: Sequence[Override], masks: Iterable[bytes]) -> bytes:
    """Encode corrected masks as a Parquet file.

    Args:
        overrides: The masks without their pixels.
        masks: The PNG of each, on the stored pixels of its image, with the image's orientation.
    """
    columns = {name: [getattr(one, name) for one in overrides] for name in SMALL_COLUMNS}
    columns["mask"] = [
        {"bytes": mask, "path": name_mask_file(one.key)} for one, mask in zip(overrides, masks, strict=True)
    ]
    sink = io.BytesIO()
    table = pa.table({name: columns[name] for name in OVERRIDE_SCHEMA.names}, schema=OVERRIDE_SCHEMA)
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_MASKS)
    return sink.getvalue()


def _read_file(uri: str, fingerprint: str) -> list[Override]:
    try:
        with closing(open_random(uri)) as file:
            rows = pq.read_table(file, columns=list(SMALL_COLUMNS)).to_pylist()
        found = [
            Override(**row | {"class_ids": tuple(row["class_ids"])}, uri=uri, place=place)
            for place, row in enumerate(rows)
        ]
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ManifestError(f"'{uri}' is no table of corrected masks: {error}; move it out of the run") from error
    if others := {one.fingerprint for one in found} - {fingerprint}:
        raise ManifestError(
            f"'{uri}' holds corrected masks of another run, of fingerprint {min(others)[:16]}; move it to that run"
        )
    return found


def _read_masks(uri: str, group: int) -> list[bytes]:
    try:
        with closing(open_random(uri)) as file:
            table = pq.ParquetFile(file).read_row_group(group, columns=["mask"])
    except FileNotFoundError as error:
        raise ManifestError(f"'{uri}' does not exist any more, which holds corrected masks; put it back") from error
    except pa.ArrowException as error:
        raise ManifestError(f"'{uri}' is damaged: {error}; import its masks again") from error
    return [record["bytes"] for record in table["mask"].to_pylist()]


def _read_frame(png: bytes) -> dict[str, int]:
    """Size and orientation of the image that a mask belongs to."""
    try:
        with open_image(png, ["PNG"]) as image:
            image.load()
            width, height = image.size
            return {
                "width": width,
                "height": height,
                "exif_orientation": read_exif_orientation(image.info.get("exif", b"")),
            }
    except UNREADABLE_ERRORS as error:
        raise ManifestError(f"a corrected mask is damaged: {error}; import it again") from error
