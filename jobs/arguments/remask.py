"""The options of tagmask remask."""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.command_line.shared_options import ClusterOptions, LogOptions, RunOptions, StoreOptions
from pipeline.run.config import MapConfig, PixelRefinement
from pipeline.run.options import DriverOptions


@dataclass(frozen=True, kw_only=True)
class MaskChanges:
    """What is made of the kept maps in another way than before."""

    background_threshold: float | None = None
    """Pixels whose best class map is at most this are background. Default: as it was."""
    foreground_threshold: float | None = None
    """Pixels whose best class map is above this get its class; between the two they are ignored (255). Default: as
    it was."""
    has_background: tyro.conf.DisallowNone[bool | None] = None
    """False: every pixel gets its best tagged class. Default: as it was."""
    min_presence: float | None = None
    """Tags whose class the model takes for less probable than this are left out of the mask. Default: as it was."""

    pixel_refinement: PixelRefinement | None = None
    """par: draw the maps to the edges of the images, which are read again; none: do not. Default: as it was."""
    pixel_iterations: int | None = None
    """Rounds of the refinement by pixels. Default: as it was."""
    pixel_side_px: int | None = None
    """It works at about the pixels of a square of this side. Default: as it was."""

    def apply(self, maps: MapConfig) -> MapConfig:
        """Change what is given."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(maps, **given)


@dataclass(frozen=True, kw_only=True)
class RemaskJob:
    """Make new masks and statistics of kept maps. Run the same command again to resume."""

    labels: str
    """Labelling run to read: output folder or URI of tagmask label or remask, made with --maps.keep-maps."""
    out: str
    """Output folder or URI of the new masks: laid out as that of tagmask label."""
    calibration: str | None = None
    """File of tagmask calibrate that sets thresholds; made for the same model, views and evidence."""
    maps: MaskChanges = field(default_factory=MaskChanges)
    """What changes."""
    allow_nothing_labelled: bool = False
    """Exit with 0 also if no image of a shard is labelled: right for shards of few images, or of rare classes."""
    waits: Annotated[DriverOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=DriverOptions)
    run: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)
    log: Annotated[LogOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=LogOptions)
