from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.workers.planned_source import PlannedSource
from pipeline.workers.read_part import ReadPart

SCHEMA = pa.schema([("number", pa.int64())])


def read_numbers(start: Any, stop: Any) -> Iterator[pa.Table]:
    for number in range(start, stop):
        yield pa.table({"number": [number]}, schema=SCHEMA)


def make_source() -> Any:
    parts = [ReadPart(partial(read_numbers, 0, 2), 20), ReadPart(partial(read_numbers, 2, 5), 30)]
    return PlannedSource("Numbers", parts, SCHEMA)


def test_source_has_one_task_per_part_at_any_parallelism() -> None:
    for parallelism in (1, 7):
        tasks = make_source().get_read_tasks(parallelism)
        assert [[table["number"].to_pylist() for table in task()] for task in tasks] == [[[0], [1]], [[2], [3], [4]]]


def test_source_reports_its_size_schema_and_name() -> None:
    source = make_source()
    assert source.get_name() == "Numbers"
    assert source.estimate_inmemory_data_size() == 50
    tasks = source.get_read_tasks(1)
    assert [task.metadata.size_bytes for task in tasks] == [20, 30]
    assert all(task.schema == SCHEMA for task in tasks)
