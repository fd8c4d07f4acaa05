"""A Ray Data source whose read tasks are planned beforehand."""

from collections.abc import Sequence

import pyarrow as pa
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.workers.read_part import ReadPart


class PlannedSource(Datasource):
    """Tables of one schema, read by one task per part, in the order of the parts."""

    def __init__(self, name: str, parts: Sequence[ReadPart], schema: pa.Schema) -> None:
        """Plan one read task per part.

        Args:
            name: Shown in Ray's progress and metrics.
            parts: Frozen into the read tasks.
            schema: Of all tables.
        """
        super().__init__()
        self._name = name
        self._parts = tuple(parts)
        self._schema = schema

    def get_name(self) -> str:
        """Return the name for Ray's progress and metrics."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Sum the sizes of all parts, in bytes."""
        return sum(part.num_bytes for part in self._parts)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task per part, independent of `parallelism`."""
        return [
            ReadTask(
                part.read,
                BlockMetadata(num_rows=None, size_bytes=part.num_bytes, input_files=None, exec_stats=None),
                schema=self._schema,
                per_task_row_limit=per_task_row_limit,
            )
            for part in self._parts
        ]
