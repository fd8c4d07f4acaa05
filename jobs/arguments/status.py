"""The options of tagmask status."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.command_line.shared_options import StoreOptions


@dataclass(frozen=True, kw_only=True)
class StatusJob:
    """Say how far a labelling run or an export is, who works on it, and what to run next."""

    out: tyro.conf.Positional[str]
    """Output folder or URI of tagmask label, remask or export."""
    json: bool = False
    """Print one JSON object."""
    watch: float | None = None
    """Print again every WATCH seconds, as long as the run goes on."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if self.watch is not None and not self.watch >= 1:
            raise ValueError(f"need --watch >= 1, got {self.watch}")
