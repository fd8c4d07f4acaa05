"""An import: corrections of files become one file of masks beside the run. Nothing is written before all is checked."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import numpy as np
from jaxtyping import UInt8

from pipeline.corrections.drawing import Correction, require_pycocotools
from pipeline.corrections.files import FileFormat, read_corrections
from pipeline.corrections.matching import iterate_matched
from pipeline.errors import CorrectionError
from pipeline.images.masks import encode_mask
from pipeline.images.orientation import place_on_stored_pixels, turn_size
from pipeline.published.decisions import compute_mask_digest
from pipeline.published.overrides import OVERRIDES_FOLDER, Override, read_overrides, write_overrides
from pipeline.published.rows import MaskRow
from pipeline.published.run import PublishedRun
from pipeline.run.config import IGNORE_LABEL
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import open_atomic

NAME_DIGITS = 32
BLOCK_BYTES = 2**20


@dataclass(kw_only=True)
class ImportSummary:
    """What an import did."""

    num_imported: int = 0
    num_unchanged: int = 0
    """Masks equal to that of their row."""
    num_not_annotated: int = 0
    """Images that the tool lists and nobody annotated."""
    num_in_force: int = 0
    """Masks equal to the corrected one that their row has already: imported before."""
    uri: str | None = None
    """File of the masks; None: there was none to import."""


@dataclass(frozen=True, kw_only=True)
class MaskImport:
    """An import into a run."""

    run: PublishedRun
    uris: Sequence[str]
    """Files of tools."""
    file_format: FileFormat = "auto"
    annotator: str | None = None
    """Name for all masks; None: as the files say."""
    keep_unchanged: bool = False
    """Import masks that equal those that the model drew, too: the one way to take a correction back."""
    is_dry: bool = False
    """Check and count only."""

    def run_at(self, time: datetime) -> ImportSummary:
        """Import the masks, as of a time.

        Raises:
            CorrectionError: A file cannot be read, or does not fit the run.
            ManifestError: A manifest is damaged.
            StorageError: The store failed.
        """
        require_pycocotools()
        summary = ImportSummary()
        found: list[tuple[str, Correction]] = []
        for uri in self.uris:
            tool, corrections = read_corrections(uri, self.file_format, self.run.vocabulary)
            for one in corrections:
                if one is None:
                    summary.num_not_annotated += 1
                else:
                    found.append((tool, one))
        # With the time: masks that were imported, replaced, and imported again come into force again.
        digest = hashlib.sha256(time.isoformat().encode())
        with tempfile.TemporaryFile(prefix="tagmask-") as spool:
            write_overrides(self._convert(found, time, digest, summary), cast(io.BufferedIOBase, spool))
            if not summary.num_imported:
                return summary
            name = f"{digest.hexdigest()[:NAME_DIGITS]}.parquet"
            summary.uri = join_uri(self.run.uri, OVERRIDES_FOLDER, name)
            if not self.is_dry:
                spool.seek(0)
                with open_atomic(summary.uri) as file:
                    while block := spool.read(BLOCK_BYTES):
                        file.write(block)
        return summary

    def _convert(
        self, found: Sequence[tuple[str, Correction]], time: datetime, digest: "hashlib._Hash", summary: ImportSummary
    ) -> Iterator[tuple[Override, bytes]]:
        tools, there = {id(one): tool for tool, one in found}, read_overrides(self.run.uri)
        for row, correction in iterate_matched(self.run, [one for _, one in found]):
            mask = _draw_stored(row, correction)
            if not self.keep_unchanged and _is_unchanged(row, mask):
                summary.num_unchanged += 1
                continue
            in_force = there.find(row)
            if in_force is not None and np.array_equal(there.read_mask(in_force), mask):
                summary.num_in_force += 1
                continue
            override = Override(
                shard=row.shard_name,
                index=row.index,
                key=row.key,
                class_ids=tuple(value for value in np.unique(mask).tolist() if value),
                tool=tools[id(correction)],
                source=correction.source,
                annotator=self.annotator if self.annotator is not None else correction.annotator,
                time=time,
                fingerprint=str(self.run.record["fingerprint"]),
                image_sha256=row.get("image_sha256"),
                mask_sha256=compute_mask_digest(row.get("mask")),
            )
            png = encode_mask(mask, self.run.palette, row.orientation)
            said = (*override.row_id, override.key, override.tool, override.annotator, override.image_sha256)
            digest.update(f"{said!r} {hashlib.sha256(png).hexdigest()}\n".encode())
            summary.num_imported += 1
            yield override, png


def _draw_stored(row: MaskRow, correction: Correction) -> UInt8[np.ndarray, "h w"]:
    height, width = row.get("height"), row.get("width")
    if height is None or width is None:
        raise CorrectionError(
            f"'{correction.source}', image '{correction.title}': its photo could not be read when it was labelled, so "
            "that its size is not known; mend the photo and label it again, or delete it from the file"
        )
    return place_on_stored_pixels(correction.draw(turn_size((height, width), row.orientation)), row.orientation)


def _is_unchanged(row: MaskRow, mask: UInt8[np.ndarray, "h w"]) -> bool:
    if not row.is_labelled:
        return False
    # Tools show ignored pixels as background.
    there = row.mask()
    return np.array_equal(np.where(there == IGNORE_LABEL, 0, there), mask)
