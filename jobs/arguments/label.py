"""The options of tagmask label."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import ClusterOptions, Gpus, LogOptions, RunOptions, StoreOptions
from jobs.qualities import QUALITIES
from pipeline.run.config import LabelConfig
from pipeline.run.options import ExecutionOptions


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Label tagged image shards with masks. Run the same command again to resume."""

    shards: tuple[str, ...]
    """WebDataset tars or Parquet files: paths or URIs, globs, {00000..00099} ranges, or folders."""
    vocabulary: str
    """Vocabulary file (JSON or YAML): classes in the model's order, and their aliases."""
    model: str
    """Model bundle: the folder that tagmask train or tagmask import-checkpoint wrote."""
    out: str
    """Output folder or URI. Manifests appear in OUT/labels, one per shard."""
    calibration: str | None = None
    """File of tagmask calibrate that sets thresholds; made for the same model, views and evidence."""
    workers: int | None = None
    """Labelling workers. Default: as many as the cluster holds when the job starts."""
    gpus_per_worker: Gpus = "auto"
    """GPUs of a worker: auto (1; on this machine alone 0 if it has none), 1, a fraction to share one, 0 to label on
    CPUs."""
    cpus_per_worker: float | None = None
    """CPUs of a worker: they decode and draw beside a GPU, and run the model without one. Default: with a GPU what its
    node has for it, less one; else 1."""
    execution: Annotated[ExecutionOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ExecutionOptions)
    retry: str | None = None
    """Label again what a finished run rejected: 'rejected', or 'rejected:too_large,crashed' for some reasons. The
    limit that rejected them may be raised in the same command; everything else stays as it was. Or label again what
    reviewers found wrongly tagged, with corrected classes: 'reviewed:wrong_tag', 'reviewed:missing_tag', or both with
    a comma."""
    allow_nothing_labelled: bool = False
    """Exit with 0 also if no image of a shard is labelled: right for shards of few images, or of rare classes."""
    run: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)
    log: Annotated[LogOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=LogOptions)
    quality: Literal["fast", "balanced", "best"] = "balanced"
    """Cost of better maps. Sets the defaults of the options below; see jobs/qualities.py."""
    config: Annotated[LabelConfig, tyro.conf.arg(name="")] = field(default_factory=QUALITIES["balanced"])

    def check(self) -> None:
        """Check options that exclude each other.

        Raises:
            ValueError: A retry is to add shards, too.
        """
        if self.retry is not None and self.run.extend:
            raise ValueError(
                "--retry labels rows of the shards that the run has, and --extend adds shards; run --extend first, "
                "then --retry in a command of its own"
            )
