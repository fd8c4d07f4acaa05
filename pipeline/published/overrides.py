"""Masks that people corrected: Parquet files beside the manifests of a run, one file an import, one row a mask.

    OUT/overrides/IMPORT.parquet

Files are only added. Of several masks of a row the one imported last counts, as long as the row has the same image.
"""

import io
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from pipeline.errors import ManifestError, is_store_failure
from pipeline.images.masks import decode_mask, name_mask_file
from pipeline.published.decisions import RowId
from pipeline.published.rows import MaskRow
from pipeline.run.records import Status
from pipeline.run.run_file import read_run
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import open_random
from pipeline.storage.uris import join_uri

OVERRIDES_FOLDER = "overrides"
TOOLS = ("coco", "cvat", "label-studio")
ROWS_PER_GROUP = 16
"""Masks that are read together."""
NUM_CACHED_GROUPS = 2
NUM_THREADS = 16
FULL_QUALITY = 1.0
"""Of a mask that a person drew."""

OVERRIDE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), nullable=False),
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
_SMALL_COLUMNS = [name for name in OVERRIDE_SCHEMA.names if name != "mask"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One corrected mask, without its pixels."""

    shard: str
    """Name of the shard, which is that of its manifest without suffix."""
    index: int
    key: str
    class_ids: tuple[int, ...]
    """Classes that the mask shows, in order; without background and ignored pixels."""
    tool: str
    """One of `TOOLS`."""
    source: str
    """File that the mask was imported from."""
    annotator: str | None
    time: datetime
    """Of the import, in UTC."""
    fingerprint: str
    """Of the run."""
    image_sha256: str | None
    mask_sha256: str | None
    """Digest of the PNG that was corrected; None for a rejected row."""

    def __post_init__(self) -> None:
        if self.tool not in TOOLS:
            raise ValueError(f"need a tool of {', '.join(TOOLS)}, got {self.tool!r}")
        if self.index < 0:
            raise ValueError(f"need an index of a row from 0, got {self.index}")

    @property
    def row_id(self) -> RowId:
        """The row that the mask belongs to."""
        return RowId(self.shard, self.index)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the pixels of a mask are."""

    uri: str
    group: int
    row: int
    """In its row group."""


@dataclass(frozen=True)
class Overrides(Mapping[RowId, Override]):
    """The corrected masks of a run that count, by row. Pixels are read when they are asked for."""

    by_row: Mapping[RowId, Override] = field(default_factory=dict)
    _places: Mapping[RowId, _Place] = field(default_factory=dict)
    _cache: OrderedDict[tuple[str, int], list[bytes]] = field(default_factory=OrderedDict, compare=False, repr=False)

    def __getitem__(self, row_id: RowId) -> Override:
        return self.by_row[row_id]

    def __iter__(self) -> Iterator[RowId]:
        return iter(self.by_row)

    def __len__(self) -> int:
        return len(self.by_row)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to other processes: no pixels."""
        return {"by_row": self.by_row, "_places": self._places, "_cache": OrderedDict()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)

    def find(self, row: MaskRow) -> Override | None:
        """The corrected mask of a row; None if there is none, or the row has another image now, as far as was read."""
        found = self.by_row.get(RowId(row.shard_name, row.index))
        if found is None or row.values.get("image_sha256", found.image_sha256) != found.image_sha256:
            return None
        return found

    def read_png(self, override: Override) -> bytes:
        """Read the PNG of a mask.

        Raises:
            KeyError: It is not one of these masks.
            ManifestError: Its file is gone or damaged.
            StorageError: The store failed.
        """
        place = self._places[override.row_id]
        name = place.uri, place.group
        # Threads may share this object: each step is one operation of the cache.
        pngs = self._cache.pop(name, None)
        if pngs is None:
            pngs = _read_group(place)
        self._cache[name] = pngs
        if len(self._cache) > NUM_CACHED_GROUPS:
            self._cache.pop(next(iter(tuple(self._cache))), None)
        return pngs[place.row]

    def read_mask(self, override: Override) -> UInt8[np.ndarray, "h w"]:
        """Read and decode a mask, on the stored pixels of the image.

        Raises:
            KeyError: It is not one of these masks.
            ManifestError: Its file is gone or damaged.
            StorageError: The store failed.
        """
        payload = self.read_png(override)
        try:
            return decode_mask(payload)
        except ManifestError as error:
            uri = self._places[override.row_id].uri
            raise ManifestError(f"'{uri}', mask of '{override.key}': {error}; move the file out of the run") from error

    def apply(self, row: MaskRow) -> MaskRow:
        """Put the corrected mask into a row; a row without one is given back as it is.

        Columns that were not read stay unread; fractions and statistics of the mask before stay as they are.

        Raises:
            ManifestError: The file of the mask is gone or damaged.
            StorageError: The store failed.
        """
        found = self.find(row)
        if found is None:
            return row
        changes: dict[str, Any] = {
            "class_ids": list(found.class_ids),
            "quality": FULL_QUALITY,
            "status": str(Status.LABELLED),
            "reason": None,
        }
        if "mask" in row.values:
            changes["mask"] = {"bytes": self.read_png(found), "path": name_mask_file(found.key)}
        values = {name: changes.get(name, value) for name, value in row.values.items()}
        origin = {
            "override_tool": found.tool,
            "override_source": found.source,
            "override_annotator": found.annotator,
            "override_time": found.time,
        }
        return replace(row, values=values | origin)


def read_overrides(run_uri: str) -> Overrides:
    """Read which rows of a run have corrected masks; none if nothing was imported.

    Raises:
        ManifestError: The folder holds no run, or a file is no table of masks or of another run.
        StorageError: The store failed.
    """
    fingerprint = str(read_run(run_uri)["fingerprint"])
    objects = list_objects(join_uri(run_uri, OVERRIDES_FOLDER))
    uris = sorted(item.uri for item in objects if item.uri.endswith(".parquet"))
    latest: dict[RowId, tuple[Override, _Place]] = {}
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for some in threads.map(lambda uri: _read_file(uri, fingerprint), uris):
            for override, place in some:
                known = latest.get(override.row_id)
                # Of two imports of one time the name decides, as the files come in its order.
                if known is None or override.time >= known[0].time:
                    latest[override.row_id] = override, place
    return Overrides(
        {row_id: override for row_id, (override, _) in latest.items()},
        {row_id: place for row_id, (_, place) in latest.items()},
    )


def encode_overrides(masks: Iterable[tuple[Override, bytes]]) -> bytes:
    """Encode masks as a Parquet file, each with its palette PNG on the stored pixels."""
    sink = io.BytesIO()
    write_overrides(masks, sink)
    return sink.getvalue()


def write_overrides(masks: Iterable[tuple[Override, bytes]], sink: io.BufferedIOBase) -> None:
    """Write masks as a Parquet file, some of them in memory at a time."""
    # PNGs are compressed already; texts repeat, which their dictionary takes care of.
    with pq.ParquetWriter(sink, OVERRIDE_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        remaining = iter(masks)
        while group := list(islice(remaining, ROWS_PER_GROUP)):
            columns = {name: [getattr(one, name) for one, _ in group] for name in _SMALL_COLUMNS}
            columns["mask"] = [{"bytes": png, "path": name_mask_file(one.key)} for one, png in group]
            writer.write_table(pa.table(columns, schema=OVERRIDE_SCHEMA), row_group_size=ROWS_PER_GROUP)


def _read_file(uri: str, fingerprint: str) -> list[tuple[Override, _Place]]:
    found = []
    with _open_file(uri) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=_SMALL_COLUMNS, use_threads=False).to_pylist()
            for place, row in enumerate(rows):
                override = Override(**row | {"class_ids": tuple(row["class_ids"])})
                if override.fingerprint != fingerprint:
                    raise ManifestError(
                        f"'{uri}' holds masks of another run, of fingerprint {override.fingerprint[:16]}; move it to "
                        "that run"
                    )
                found.append((override, _Place(uri, group, place)))
    return found


def _read_group(place: _Place) -> list[bytes]:
    with _open_file(place.uri) as file:
        masks = file.read_row_group(place.group, columns=["mask.bytes"], use_threads=False)["mask"].to_pylist()
        if len(masks) <= place.row or any(mask["bytes"] is None for mask in masks):
            raise ValueError(f"row group {place.group} lacks a mask")
        return [mask["bytes"] for mask in masks]


@contextmanager
def _open_file(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a table of masks; errors of the file, also of reads in the context, become a `ManifestError`."""
    try:
        with closing(open_random(uri)) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=True)
            there = {part.name: part.type for part in file.schema_arrow}
            for part in OVERRIDE_SCHEMA:
                if part.name not in there or not there[part.name].equals(part.type):
                    raise ValueError(f"column '{part.name}' is missing or of another type")
            yield file
    except FileNotFoundError as error:
        raise ManifestError(f"'{uri}' does not exist any more; open the run again") from error
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and is_store_failure(error):
            raise
        raise ManifestError(f"'{uri}' is no table of corrected masks: {error}; move it out of the run") from error
