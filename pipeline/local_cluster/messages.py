"""Messages between the driver and its child processes: pickled tuples over a pair of sockets.

Both ends are processes of one user on one machine, made by one command, so pickles are safe here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report
from pipeline.driver.steps import Actors, PlanRead, Tasks


@dataclass(frozen=True, kw_only=True)
class Setup:
    """First message to a child process."""

    plan_read: PlanRead
    workers: Actors | Tasks
    store_outage_s: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """A shard to read and process."""

    shard: ShardWork


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer of the driver to a `Call`."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker of a child process has started."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """All rows of a shard were read and processed."""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A chunk is committed, a shard ends, or a shard failed."""

    report: Report


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The child process cannot go on."""

    error: Exception


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of the driver's counter of attempts, or of its board."""

    method: str
    arguments: Mapping[str, Any]
    wants_answer: bool
