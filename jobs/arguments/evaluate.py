"""The options of tagmask evaluate."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.command_line.shared_options import StoreOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Score masks against the truth."""

    labels: str
    """Labelling run to score: output folder or URI of tagmask label or remask."""
    truth: str
    """Folder, URI or tar of true masks: PNGs named by key, pixels hold class ids, 255 is ignored."""
    json: str | None = None
    """Also write all figures, the whole curve among them, to this file or URI."""
    html: str | None = None
    """Also make a page of it, with charts and pictures of the best and the worst masks, in this file or URI."""
    num_threads: int = 4
    """Manifests that are read at the same time."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)
