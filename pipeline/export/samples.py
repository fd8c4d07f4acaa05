"""What a format of an export gets, and what it has to do."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

PROVENANCE = ("override_tool", "override_source", "override_annotator", "override_time")
"""Values of a row whose mask was corrected, which say where the mask comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSample:
    """One labelled image, upright: as a viewer shows it, whatever the EXIF orientation of the photo is."""

    name: str
    """Name of its files without suffix, unique in the export and safe in every file system."""
    number: int
    """Unique in the run, the same in every export of it, below 2**53: the place of its shard, and of it therein."""
    key: str
    """Key of the sample, as the input has it."""
    shard_name: str
    index: int
    """Place in its shard, from 0."""
    image: bytes
    """Encoded image without an EXIF orientation: the bytes of the input unless the photo had to be turned."""
    image_suffix: str
    """Suffix that fits `image`: '.jpg', '.png' and so on."""
    mask: UInt8[np.ndarray, "h w"]
    """Class ids on the upright pixels; 0 is the background."""
    class_ids: tuple[int, ...]
    """Classes that the tags name; more than the mask may show."""
    tags: tuple[str, ...]
    quality: float
    """Predicted quality of the mask, 0 to 1."""
    split: str
    """Name of its split."""
    values: Mapping[str, Any]
    """All other columns of its row."""

    @property
    def provenance(self) -> dict[str, str]:
        """Where a corrected mask comes from, by name; empty for a mask of the run."""
        found = {name: self.values.get(name) for name in PROVENANCE}
        return {
            name: value.isoformat() if isinstance(value, datetime) else str(value)
            for name, value in found.items()
            if value is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """What all samples of an export share."""

    class_names: tuple[str, ...]
    """Name of each mask value; the first is the background."""
    palette: UInt8[np.ndarray, "256 3"]
    """RGB of each mask value."""
    splits: tuple[str, ...]
    """Names of the splits, in their order."""
    fingerprint: str
    """Identity of the export: of its run, format, options and filters."""


@runtime_checkable
class ExportFiles(Protocol):
    """Where a format writes. Paths are relative to the folder of the export; all writes are atomic and idempotent."""

    def put(self, path: str, payload: bytes) -> None:
        """Write a file."""

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for sequential writes; it appears, whole, when the context ends without an error."""


@runtime_checkable
class ExportFormat(Protocol):
    """A format of data sets. Objects are small, hold options alone, and travel to other processes."""

    def check(self, context: ExportContext) -> None:
        """Check before any work that the options fit and the packages are there.

        Raises:
            ValueError: They do not; the message says what to do.
        """

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write the samples of one input shard, which come in order, one in memory at a time.

        The same samples give the same files, so that a shard that was cut off can be written again. What joint files
        need of a sample is yielded as a JSON object; sequences of names, not numpy arrays.
        """

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write the joint files of all shards: lists, annotations, descriptions.

        Args:
            entries: Starts a pass over what `write_shard` yielded, in the order of shards and samples; it does not fit
                into memory.
            files: Where to write.
            context: As of `write_shard`.
        """
