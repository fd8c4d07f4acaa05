"""The options of tagmask review."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import StoreOptions

MAX_RUNS = 2
MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class ReviewJob:
    """Look at the masks of a labelling run in a browser, worst first, and judge them."""

    labels: tyro.conf.UseAppendAction[tuple[str, ...]]
    """Labelling run to review: output folder or URI of tagmask label or remask. Given a second time: a run of the same
    shards to compare it with."""
    truth: str | None = None
    """Folder, URI or tar of true masks to show beside."""
    truth_frame: Literal["auto", "stored", "upright"] = "auto"
    """Frame of true masks whose photo has an EXIF orientation: its stored pixels, or the photo turned upright. auto: by
    the EXIF of the true mask, else by its size; true masks that fit both are refused."""
    reviewer: str | None = None
    """Name under which decisions are stored. Default: that of the user of this machine."""
    host: str = "127.0.0.1"
    """Address of this machine to listen at. Another one than the default lets other machines in, without encryption:
    the token of the address is all that protects photos and decisions."""
    port: int = 0
    """Port to listen at. 0: any that is free."""
    open: bool = False
    """Open the page in the browser of this machine."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if not 1 <= len(self.labels) <= MAX_RUNS:
            raise ValueError(f"need --labels once or twice, got {len(self.labels)} runs")
        if not 0 <= self.port <= MAX_PORT:
            raise ValueError(f"need --port from 0 to {MAX_PORT}, got {self.port}")
