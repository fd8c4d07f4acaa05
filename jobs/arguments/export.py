"""The options of tagmask export."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.command_line.shared_options import ClusterOptions, LogOptions, StoreOptions
from pipeline.export.formats.catalogue import Formats
from pipeline.run.options import DriverOptions


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows are exported. A row has a mask and meets all conditions that are given."""

    min_quality: float | None = None
    """Lowest quality, 0 to 1. It removes hard classes first; see --best-fraction."""
    best_fraction: float | None = None
    """Share of the rows of each set of classes, the best by quality: 0.5 keeps the better half of the photos of dogs,
    and of those of dogs with persons."""
    classes: str | None = None
    """Names of classes, separated by commas: rows with at least one of them. Default: all."""
    keys: str | None = None
    """File with the keys of the samples to export, one a line. Default: all."""
    reviewed: bool = False
    """Only rows that a reviewer accepted in tagmask review."""
    without_refused: bool = False
    """No rows with which a reviewer found fault: refused, wrong or missing tag, to be redrawn. Others stay, reviewed
    or not."""
    without_overrides: bool = False
    """Masks as they were labelled, where others were imported by tagmask import-masks. Default: these are exported in
    their place, with quality 1; they count as reviewed."""


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """Export published masks and images. Run the same command again to resume."""

    labels: str
    """Labelling run to read: output folder or URI of tagmask label or remask."""
    out: str
    """Folder or URI of the data set: new, or that of the same export."""
    format: str
    """Format of the data set: hf, webdataset, voc, yolo, coco, label-studio, cvat or fiftyone."""
    filters: Annotated[Filters, tyro.conf.OmitArgPrefixes] = field(default_factory=Filters)
    splits: str = "train=1"
    """Shares of the splits, as train=0.9,val=0.1. The hash of its key chooses the split of a row."""
    skip_missing: bool = False
    """Leave out rows whose image is gone or changed since it was labelled. Default: an error."""
    limit: int | None = None
    """Only the first LIMIT shards. The whole can follow under the same --out."""
    dry_run: bool = False
    """Print what is done and what remains, and stop. Nothing is written."""
    grace_s: float = 2.0
    """After SIGTERM or SIGINT, seconds in which commits under way may finish. Ray kills a stopped job after 3 s."""
    formats: Annotated[Formats, tyro.conf.arg(name="")] = field(default_factory=Formats)
    waits: Annotated[DriverOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=DriverOptions)
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)
    log: Annotated[LogOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=LogOptions)
