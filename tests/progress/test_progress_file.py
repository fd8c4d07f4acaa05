"""progress.json: what it says, and that no failing store is held against the run."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.progress import progress_file
from pipeline.progress.progress_file import ProgressFile, RunState, parse_time, read_progress
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from tests.fakes import FaultyStore
from tests.jobs.test_progress import at


def write(out: str, command: str, *states: Any, end: RunState = RunState.DONE) -> Any:
    file = ProgressFile(out, command, pytest.fail)
    for state in states:
        file.enter(state)
    file.warn("w" * 5000)
    file.end(end)
    return json.loads(read_bytes(join_uri(out, "progress.json")))


def test_record_says_how_far_the_run_is(tmp_path: Path) -> None:
    fields = write(str(tmp_path), "label", at(0, 0), at(10, 100, reasons={'no "tag"\n': 2}, num_sealed=3))
    assert (fields["state"], fields["command"], fields["pid"]) == ("done", "label", os.getpid())
    assert (fields["num_shards"], fields["num_sealed"], fields["num_images"]) == (10, 3, 100)
    assert (fields["num_rejected"], fields["rejected_by_reason"]) == (2, {'no "tag"\n': 2})
    assert (fields["num_bytes"], fields["num_bytes_done"], fields["images_per_s"]) == (10_000, 100, 10.0)
    assert len(fields["last_warning"]) == 1000
    assert abs(time.time() - parse_time(fields["updated"])) < 60


def test_rows_that_an_export_leaves_out_are_not_called_rejected(tmp_path: Path) -> None:
    fields = write(str(tmp_path), "export", at(10, 100, reasons={"quality": 2}))
    assert (fields["num_rejected"], fields["rejected_by_reason"]) == (0, {})
    assert (fields["num_left_out"], fields["left_out_by_reason"]) == (2, {"quality": 2})


def test_record_is_on_s3_too(s3_folder: str) -> None:
    fields = write(s3_folder, "label", at(10, 100), end=RunState.STOPPED)
    assert fields["state"] == "stopped"
    record = read_progress(s3_folder)
    assert record is not None
    assert record.num_images == 100


def test_record_is_written_every_few_seconds(tmp_path: Path) -> None:
    now = 1000.0
    file = ProgressFile(str(tmp_path), "label", pytest.fail, clock=lambda: now)

    def enter(num_read: int) -> int:
        file.enter(at(10, num_read))
        file.wait(10.0)
        record = read_progress(str(tmp_path))
        assert record is not None
        return record.num_images

    assert enter(1) == 1
    assert enter(2) == 1
    now += progress_file.PERIOD_S
    assert enter(3) == 3


def test_invocation_that_had_nothing_to_do_leaves_the_record_alone(tmp_path: Path) -> None:
    ProgressFile(str(tmp_path), "label", pytest.fail).end(RunState.DONE)
    assert not list(tmp_path.iterdir())
    ProgressFile(str(tmp_path), "label", pytest.fail).end(RunState.FAILED)
    assert read_progress(str(tmp_path)) is not None


def test_store_that_fails_is_noted_once_a_minute_and_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    now, warnings = 1000.0, list[str]()
    # A folder that cannot be: its parent is a file.
    file = ProgressFile(str(tmp_path / "file" / "out"), "label", warnings.append, clock=lambda: now)
    for _ in range(600):
        now += 0.25
        file.enter(at(10, 100))
        file.wait(10.0)
    assert 1 <= len(warnings) <= 4
    assert "progress.json cannot be written, the run goes on" in warnings[0]
    file.end(RunState.DONE)


def test_slow_store_holds_nobody_up(faulty_uri: str) -> None:
    gate = threading.Event()

    def block(number: int, name: str) -> None:
        gate.wait(60)

    FaultyStore.before_write = staticmethod(block)
    file = ProgressFile(faulty_uri, "label", pytest.fail)
    before_s = time.monotonic()
    for _ in range(5):
        file.enter(at(10, 100))
    file.end(RunState.STOPPED)
    assert time.monotonic() - before_s < 30
    gate.set()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"state": "running"}',
        b'{"version": "new"}',
        b'{"state":"running","command":"label","started":"noon","updated":"noon","host":"h","pid":1}',
        b'{"state":"asleep","command":"label","started":"2026-01-01T00:00:00+00:00",'
        b'"updated":"2026-01-01T00:00:00+00:00","host":"h","pid":1}',
    ],
    ids=["empty", "no text", "list", "fields lack", "wrong type", "no time", "unknown state"],
)
def test_damaged_record_is_none(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "progress.json").write_bytes(payload)
    assert read_progress(str(tmp_path)) is None
