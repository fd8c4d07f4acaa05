"""The options of tagmask train."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import ClusterOptions, Gpus, StoreOptions
from pipeline.training.config import ExecutionConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train a model on tagged image shards. Run the same command again to resume."""

    recipe: Literal["v1", "v2", "plus", "seeded", "demo"]
    """Which complete configuration to start from; see jobs/recipes.py."""
    shards: tuple[str, ...]
    """Training shards, WebDataset tars or Parquet files: paths or URIs, globs, {00000..00099} ranges, folders."""
    vocabulary: str
    """Vocabulary file (JSON or YAML): classes in the model's order, and their aliases."""
    out: str
    """Output folder or URI: checkpoints, and the model in OUT/bundle."""
    val_shards: tuple[str, ...] = ()
    """Shards kept aside for average precision; none: no validation."""
    workers: str = "1"
    """Training workers, each with a copy of the model and an equal share of every batch: a number such as 64, or a
    range such as 8:64, as many as there are and 8 at least."""
    gpus_per_worker: Gpus = "auto"
    """GPUs of a worker: auto (1 where the cluster has one for each worker or may come to have it, else 0), 1, or 0 to
    train on CPUs."""
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)
    execution: Annotated[ExecutionConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ExecutionConfig)
    config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes]

    def __post_init__(self) -> None:
        self.count_workers()

    def count_workers(self) -> tuple[int, int]:
        """Count the fewest and the most workers.

        Raises:
            ValueError: `workers` is neither a number nor a range.
        """
        least, _, most = self.workers.rpartition(":")
        if not (most.isdecimal() and (least or most).isdecimal() and 1 <= int(least or most) <= int(most)):
            raise ValueError(f"need --workers to be a number such as 64 or a range such as 8:64, got '{self.workers}'")
        return int(least or most), int(most)
