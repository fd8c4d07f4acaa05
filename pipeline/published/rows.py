"""Rows of published manifests, one row group in memory at a time.

The columns of a filter are read first; the others, and masks above all, only of row groups in which a row is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt8

from pipeline.commit.manifests import Manifest, browse_manifest
from pipeline.commit.names import locate_manifest
from pipeline.errors import ManifestError
from pipeline.images.masks import decode_mask
from pipeline.images.orientation import ORIENTATIONS, turn_upright
from pipeline.published.filters import RowFilter, SettledFilter
from pipeline.published.run import PublishedRun
from pipeline.run.records import Status

NAMING_COLUMNS = ("key", "index")
"""Columns that are always read: they name the row."""


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One row of a manifest."""

    values: Mapping[str, Any]
    """The columns that were read, by name, as plain values; None for one that the manifest's version lacks."""
    shard_name: str
    names: tuple[str, ...]
    """Name of each mask value of the run."""

    @property
    def key(self) -> str:
        """Key of the sample."""
        return str(self.values["key"])

    @property
    def index(self) -> int:
        """Place of the sample in its shard, from 0."""
        return int(self.values["index"])

    @property
    def quality(self) -> float | None:
        """Predicted quality of the mask, 0 to 1; None for a rejected row."""
        value: float | None = self.get("quality")
        return value

    @property
    def is_labelled(self) -> bool:
        """Whether the row has a mask."""
        return bool(self.get("status") == Status.LABELLED)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of `class_ids`, the classes that the tags name."""
        return tuple(self.names[class_id] for class_id in self.get("class_ids") or ())

    @property
    def orientation(self) -> int:
        """EXIF orientation of the image, 1 to 8; 1 if the row has none."""
        value = self.get("exif_orientation")
        return value if value in ORIENTATIONS else 1

    @property
    def has_image(self) -> bool:
        """Whether the sample has an image, which may be damaged."""
        return self.get("image_sha256") is not None or self.values.get("image_bytes") is not None

    def get(self, column: str) -> Any:
        """Value of a column.

        Raises:
            ValueError: The column was not read.
        """
        if column not in self.values:
            raise ValueError(f"column '{column}' of row '{self.key}' was not read; name it in columns")
        return self.values[column]

    def mask(self) -> UInt8[np.ndarray, "h w"]:
        """Decode the mask, on the stored pixels of the image.

        Raises:
            ManifestError: The row has no mask, or it is damaged.
            ValueError: The column was not read.
        """
        record = self.get("mask")
        if record is None or record["bytes"] is None:
            said = f"it was rejected ({self.values.get('reason')})" if "reason" in self.values else "it was rejected"
            raise ManifestError(f"row '{self.key}' of shard '{self.shard_name}' has no mask: {said}")
        try:
            return decode_mask(record["bytes"])
        except ManifestError as error:
            raise ManifestError(f"row '{self.key}' of shard '{self.shard_name}': {error}") from error

    def upright_mask(self) -> UInt8[np.ndarray, "upright_h upright_w"]:
        """Decode the mask and turn it as a viewer turns the image.

        Raises:
            ManifestError: The row has no mask, or it is damaged.
            ValueError: A column was not read.
        """
        return np.ascontiguousarray(turn_upright(self.mask(), self.orientation))


def iterate_rows(
    run: PublishedRun,
    manifest_uri: str,
    row_filter: RowFilter | None = None,
    columns: Sequence[str] | None = None,
    row_groups: Sequence[int] | None = None,
) -> Iterator[MaskRow]:
    """Read the rows of a manifest.

    Args:
        run: The run of the manifest.
        manifest_uri: One of `run.manifest_uris`.
        row_filter: Rows that are kept; None: all.
        columns: Columns to read, besides `key` and `index`; None: all.
        row_groups: Numbers of the row groups to read, in this order; None: all.

    Raises:
        ManifestError: The manifest is damaged or of another run.
        VocabularyError: The run lacks a class of the filter.
    """
    with open_rows(run, manifest_uri) as manifest:
        yield from manifest.iterate_rows(row_filter, columns, row_groups)


def count_rows(run: PublishedRun, manifest_uri: str, row_filter: RowFilter | None = None) -> list[int]:
    """Count the kept rows of each row group of a manifest; only the columns of the filter are read.

    Raises:
        ManifestError: The manifest is damaged or of another run.
        VocabularyError: The run lacks a class of the filter.
    """
    with open_rows(run, manifest_uri) as manifest:
        return [manifest.count(group, row_filter) for group in range(manifest.num_row_groups)]


@contextmanager
def open_rows(run: PublishedRun, manifest_uri: str) -> Iterator["OpenManifest"]:
    """Open a manifest of a run for reads of row groups.

    Raises:
        ManifestError: It is missing, damaged or of another run.
    """
    try:
        with browse_manifest(manifest_uri) as manifest:
            _require_run(run, manifest)
            yield OpenManifest(run, manifest)
    except FileNotFoundError as error:
        raise ManifestError(f"manifest '{manifest_uri}' does not exist any more; open the run again") from error
    except pa.ArrowException as error:
        raise ManifestError(f"'{manifest_uri}' is damaged: {error}; label its shard again") from error


@contextmanager
def browse_published(run: PublishedRun, shard_name: str) -> Iterator[Manifest]:
    """Open the manifest of a shard of a run as it is.

    Raises:
        FileNotFoundError: There is none.
        ManifestError: It is damaged or of another run.
    """
    with browse_manifest(locate_manifest(run.uri, shard_name)) as manifest:
        _require_run(run, manifest)
        yield manifest


def _require_run(run: PublishedRun, manifest: Manifest) -> None:
    if manifest.footer.get("fingerprint") != run.record["fingerprint"]:
        raise ManifestError(f"'{manifest.uri}' is a manifest of another run than '{run.uri}'; move it away")


class OpenManifest:
    """A manifest whose row groups can be read one by one."""

    def __init__(self, run: PublishedRun, manifest: Manifest) -> None:
        """Read nothing yet but the footer.

        Raises:
            ManifestError: The footer names no shard.
        """
        self._run = run
        self._file = manifest.file
        try:
            self.shard_name = str(manifest.footer["shard"]["name"])
        except (KeyError, TypeError) as error:
            raise ManifestError(f"'{manifest.uri}' names no shard in its footer; label it again") from error

    @property
    def num_row_groups(self) -> int:
        """Number of row groups, which are the chunks of the shard."""
        return int(self._file.num_row_groups)

    @property
    def columns(self) -> list[str]:
        """Columns that the manifest has."""
        return list(self._file.schema_arrow.names)

    def iterate_rows(
        self,
        row_filter: RowFilter | None = None,
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,
    ) -> Iterator[MaskRow]:
        """Read rows, as `iterate_rows` of this module."""
        settled = self._settle(row_filter)
        for group in range(self.num_row_groups) if row_groups is None else row_groups:
            yield from self._to_rows(self._read_group(group, settled, columns), columns)

    def read_table(
        self, group: int, row_filter: RowFilter | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read the kept rows of one row group; columns that the manifest lacks are missing."""
        return self._read_group(group, self._settle(row_filter), columns)

    def read_rows(self, group: int, columns: Sequence[str] | None = None) -> list[MaskRow]:
        """Read all rows of one row group."""
        return list(self._to_rows(self._read_group(group, None, columns), columns))

    def count(self, group: int, row_filter: RowFilter | None = None) -> int:
        """Count the kept rows of a row group."""
        metadata = self._file.metadata.row_group(group)
        settled = self._settle(row_filter)
        if settled is None or not settled.columns:
            return int(metadata.num_rows)
        if not settled.may_keep(metadata):
            return 0
        return int(settled.select(self._read_columns(group, settled.columns)).num_rows)

    def _settle(self, row_filter: RowFilter | None) -> SettledFilter | None:
        return None if row_filter is None else row_filter.settle(self._run)

    def _read_group(self, group: int, row_filter: SettledFilter | None, columns: Sequence[str] | None) -> pa.Table:
        names = self.columns if columns is None else list(dict.fromkeys((*NAMING_COLUMNS, *columns)))
        names = [name for name in names if name in self.columns]
        if row_filter is None or not row_filter.columns:
            return self._read_columns(group, names)
        if not row_filter.may_keep(self._file.metadata.row_group(group)):
            return self._file.schema_arrow.empty_table().select(names)
        known = self._read_columns(group, row_filter.columns)
        kept = row_filter.find(known)
        if kept is None or not pc.any(kept).as_py():
            return self._file.schema_arrow.empty_table().select(names)
        others = self._read_columns(group, [name for name in names if name not in known.column_names])
        for name in known.column_names:
            if name in names:
                others = others.append_column(name, known[name])
        return others.select(names).filter(kept)

    def _read_columns(self, group: int, names: Sequence[str]) -> pa.Table:
        return self._file.read_row_group(group, columns=list(names), use_threads=False)

    def _to_rows(self, table: pa.Table, columns: Sequence[str] | None) -> Iterator[MaskRow]:
        missing = dict.fromkeys(name for name in columns or VERSIONED_COLUMNS if name not in table.column_names)
        for values in table.to_pylist():
            yield MaskRow(missing | values, self.shard_name, self._run.class_names)


VERSIONED_COLUMNS = ("shard", "image_offset", "image_bytes", "image_uri")
"""Columns that manifests of versions before 5 lack."""
