"""The options of tagmask report."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import StoreOptions


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """Make a page with figures and pictures of a labelling run, finished or not."""

    labels: str
    """Labelling run to show: output folder or URI of tagmask label or remask."""
    out: str
    """The page: an HTML file or URI, which needs no other file."""
    truth: str | None = None
    """Folder, URI or tar of true masks to show beside."""
    truth_frame: Literal["auto", "stored", "upright"] = "auto"
    """Frame of true masks whose photo has an EXIF orientation: its stored pixels, or the photo turned upright. auto: by
    the EXIF of the true mask, else by its size; true masks that fit both are refused."""
    num_images: int = 24
    """Images in the gallery; every class is shown about equally often."""
    rng_seed: int = 0
    """Another one picks other images."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if self.num_images < 1:
            raise ValueError(f"need --num-images >= 1, got {self.num_images}")
