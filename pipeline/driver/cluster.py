"""Interface of what runs the steps of a run. Without Ray, whose import takes a second."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report
from pipeline.driver.steps import Steps
from pipeline.workers.pulse import Beat

POLL_PERIOD_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Resources:
    """CPUs, GPUs and other resources: what one worker requests, and what a cluster has."""

    asked: Mapping[str, float] = field(default_factory=dict)
    """Minimum that one worker requests."""
    free: Mapping[str, float] = field(default_factory=dict)
    """In the whole cluster."""
    largest: Mapping[str, float] = field(default_factory=dict)
    """Largest amount on any alive node, free or in use."""

    def describe_missing(self) -> str | None:
        """Describe a request that exceeds every node, free or in use; None if there is none."""
        for name, amount in self.asked.items():
            if self.largest.get(name, 0.0) < amount:
                return f"it asks for {amount:g} {name}, and no node of the cluster has more than {self.largest[name]:g}"
        return None

    def describe_taken(self) -> str | None:
        """Describe a request that exceeds what is free; None if there is none."""
        for name, amount in self.asked.items():
            if self.free.get(name, 0.0) < amount * (1 - 1e-9):
                return f"it asks for {amount:g} {name}, and {self.free.get(name, 0.0):g} are free in the cluster"
        return None

    def describe(self) -> str:
        """Describe requested and free amounts."""
        return ", ".join(
            f"{name}: {amount:g} asked for one worker, {self.free.get(name, 0.0):g} free"
            for name, amount in self.asked.items()
        )


@dataclass(frozen=True, kw_only=True)
class WaveState:
    """State of a wave as the driver observes it, besides reports."""

    beats: Mapping[str, Beat] = field(default_factory=dict)
    """The last report of each worker, by its host and process."""
    num_actors: int = 0
    """Number of requested actors."""
    num_alive: int = 0
    """Number of running actors."""
    resources: Resources = field(default_factory=Resources)
    """Minimum that a worker requests, and what the cluster has."""

    @property
    def silent_s(self) -> float:
        """Seconds since the last report of any busy worker; infinite without reports."""
        return min((beat.age_s for beat in self.beats.values()), default=math.inf)


@runtime_checkable
class Cluster(Protocol):
    """Interface of a cluster for the driver."""

    max_wave_shards: int
    """Maximum number of shards in a wave."""

    def run_chunks(
        self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float
    ) -> Generator[Report | None, None, None]:
        """Commit the missing chunks of some shards; yield a report of each chunk and of the end of each shard.

        Yields None at intervals while there is no report, so that the driver can do other work.
        """

    def look(self) -> WaveState:
        """Return the state of the workers of the newest wave, and of the cluster."""

    def end_wave(self) -> None:
        """End what remains of the newest wave, and wait until it is gone.

        Raises:
            WaveError: Some of it cannot be ended.
        """

    def submit(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        """Call a function in another process, with the `reporting` of the wave as an additional argument."""
