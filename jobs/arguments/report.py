"""The options of tagmask report."""

from dataclasses import dataclass, field
from typing import Annotated

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
    num_images: int = 24
    """Images in the gallery; every class is shown about equally often."""
    rng_seed: int = 0
    """Another one picks other images."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"need --num-images >= 1, got {self.num_images}")
