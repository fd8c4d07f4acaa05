"""Options that several jobs have: of the cluster, of the store, of a run that can be stopped and resumed."""

from dataclasses import dataclass
from typing import Literal

Gpus = float | Literal["auto"]
"""GPUs of a worker as the command line has them."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a job computes."""

    address: str | None = None
    """Ray cluster to use. Default: the one that this job runs on, else a local one."""
    cluster: Literal["auto", "local", "ray"] = "auto"
    """What runs the workers: ray; local, child processes on the CPUs of this machine; auto, local for little work on a
    machine without GPU (at most 16 shards and 64 MiB), else ray. Jobs other than label, remask and export always use
    ray."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where URIs lead."""

    endpoint_url: str | None = None
    """Address of an S3-compatible store. Default: AWS_ENDPOINT_URL, else AWS. Credentials come from the usual chain."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What a job prints."""

    log_format: Literal["text", "json"] = "text"
    """text: a bar in a terminal, else lines with the time; json: each line of standard output and standard error is a
    JSON object with time, level, event, message and the numbers of the progress."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How much of a labelling run is done, and how it stops."""

    limit: int | None = None
    """Only the first LIMIT shards. The whole can follow under the same --out."""
    extend: bool = False
    """Add what the run in --out does not have yet: shards, or images of a folder or table. What it has stays."""
    dry_run: bool = False
    """Print what is done and what remains, and stop. Nothing is written."""
    grace_s: float = 2.0
    """After SIGTERM or SIGINT, seconds in which commits under way may finish. Ray kills a stopped job after 3 s."""

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"need --limit >= 1, got {self.limit}")
