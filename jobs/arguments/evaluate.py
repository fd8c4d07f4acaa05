"""The options of tagmask evaluate."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import StoreOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Score masks against the truth."""

    labels: str
    """Labelling run to score: output folder or URI of tagmask label or remask."""
    truth: str
    """Folder, URI or tar of true masks: PNGs named by key, pixels hold class ids, 255 is ignored. Or the word
    overrides: masks of the run that were corrected and brought back by tagmask import-masks."""
    truth_frame: Literal["auto", "stored", "upright"] = "auto"
    """Frame of true masks whose photo has an EXIF orientation: its stored pixels, or the photo turned upright. auto: by
    the EXIF of the true mask, else by its size; true masks that fit both are refused."""
    json: str | None = None
    """Also write all figures, the whole curve among them, to this file or URI."""
    html: str | None = None
    """Also make a page of it, with charts and pictures of the best and the worst masks, in this file or URI."""
    num_threads: int = 4
    """Manifests that are read at the same time."""
    max_bad_truth_fraction: float = 0.05
    """Share of the true masks that may be unusable (unreadable, of another size, with unknown classes); above it the
    scores are printed, and the exit code is 1."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if self.num_threads < 1:
            raise ValueError(f"need --num-threads >= 1, got {self.num_threads}")
        if not 0 <= self.max_bad_truth_fraction <= 1:
            raise ValueError(f"need --max-bad-truth-fraction from 0 to 1, got {self.max_bad_truth_fraction}")
