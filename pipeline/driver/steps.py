"""Steps of a run as plain values: how the driver finds, reads, processes and publishes work.

`pipeline/label.py` and `pipeline/remask.py` define what is computed; this module and the driver do not.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.commit.plan import Plan, ShardWork
from pipeline.commit.seal import Publish
from pipeline.workers.attempts import Attempts
from pipeline.workers.pulse import Reporting
from pipeline.workers.read_part import ReadPart


def import_late(module: str, name: str) -> Any:
    """Import something by name: the driver makes a plain value of a worker that needs PyTorch, and does not wait."""
    return getattr(importlib.import_module(module), name)


PlanRead = Callable[[Sequence[ShardWork], Reporting, Attempts], ReadPart]
"""Plans the read of the missing chunks of some shards: one row per chunk, then one row for the end of each shard."""


@dataclass(frozen=True, kw_only=True)
class Actors:
    """Workers that hold state, such as a model on its device: one instance of a class each."""

    find: Callable[[], Callable[..., Callable[[pa.Table], pa.Table]]]
    """Imports the class, in the worker: the driver does not wait for PyTorch. It is constructed with `arguments`,
    `reporting` and `attempts`, and called with one row of a reader."""
    arguments: Mapping[str, Any]
    num_actors: int
    calls_per_actor: int
    """Rows in flight per actor."""
    num_cpus: float
    num_gpus: float

    def start(self, reporting: Reporting, attempts: Attempts) -> Callable[[pa.Table], pa.Table]:
        """Make one worker in this process."""
        return self.find()(**self.arguments, reporting=reporting, attempts=attempts)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Workers without state: a function that any process can call."""

    find: Callable[[], Callable[..., pa.Table]]
    """Imports the function, in the worker. It is called with one row of a reader, `arguments`, `reporting` and
    `attempts`."""
    arguments: Mapping[str, Any]
    num_cpus: float

    def start(self, reporting: Reporting, attempts: Attempts) -> Callable[[pa.Table], pa.Table]:
        """Make one worker in this process."""
        function = self.find()
        return lambda row: function(row, **self.arguments, reporting=reporting, attempts=attempts)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a run, in order."""

    name: str
    """Name of the read tasks in Ray's dashboard and metrics."""
    make_plan: Callable[[], Plan]
    """Lists the remaining work from storage."""
    plan_read: PlanRead
    read_schema: pa.Schema
    """Schema of the rows that readers return."""
    workers: Actors | Tasks
    """Commit each chunk and return rows of `worker_reports.REPORT_SCHEMA`."""
    publish: Publish
