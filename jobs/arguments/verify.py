"""The options of tagmask verify."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.command_line.shared_options import ClusterOptions, StoreOptions


@dataclass(frozen=True, kw_only=True)
class VerifyJob:
    """Prove that the books of a labelling run balance."""

    labels: str
    """Labelling run to verify: output folder or URI of tagmask label or remask."""
    footers_only: bool = False
    """Read the footers of the manifests only: their identity and counts, no rows and no inputs."""
    sample: float = 1.0
    """Share of the rows, in [0, 1], whose masks are decoded and whose images are read: by a hash of their keys, so
    the same rows every time. All else is read in full."""
    json: str | None = None
    """Also write the verdict to this JSON file or URI."""
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ValueError(f"need --sample from 0 to 1, got {self.sample}")
