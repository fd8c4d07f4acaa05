"""A shard that its store does not give: the others are labelled, and it is tried again, though not for ever."""

from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.commit.plan import ShardWork
from pipeline.errors import StorageError
from pipeline.label import MAX_READS, label_run
from pipeline.labelling import chunk_source
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard
from pipeline.storage import outage
from tests.fakes import REPORTING, FaultyStore, SerialEngine
from tests.small_run import OPTIONS, read_all

DENIED = "'photos-0.tar' cannot be reached: access denied; check network, endpoint and credentials"


def deny(monkeypatch, error, num_times):
    """Let the store fail so many times for the first shard."""
    require_unchanged = chunk_source.require_unchanged
    denied = []

    def require(shard):
        if shard.name == "photos-0" and len(denied) < num_times:
            denied.append(shard)
            raise error
        require_unchanged(shard)

    monkeypatch.setattr(chunk_source, "require_unchanged", require)
    return denied


@pytest.mark.parametrize("error", [StorageError(DENIED), PermissionError(13, DENIED)])
def test_shard_that_its_store_never_gives_fails_alone(label_small_run, faulty_uri, monkeypatch, error):
    denied = deny(monkeypatch, error, num_times=100)
    summary = label_small_run("faulty://out")
    assert list(summary.failed_shards) == ["photos-0"]
    message = summary.failed_shards["photos-0"]
    assert message.startswith("shard '")
    assert "photos-0.tar' cannot be read: " in message
    assert message.endswith(f"{DENIED} (tried {MAX_READS} times)") or "Errno 13" in message
    assert len(denied) == MAX_READS
    assert summary.num_sealed == 1
    assert [name for name in read_all("faulty://out") if "labels" in name] == ["/labels/photos-1.parquet"]


@pytest.mark.parametrize(
    "error", [RecursionError, MemoryError, pa.ArrowMemoryError, UnicodeError, KeyError, SystemError]
)
def test_shard_with_which_anything_is_raised_fails_alone(label_small_run, faulty_uri, monkeypatch, error):
    denied = deny(monkeypatch, error("such a thing"), num_times=100)
    summary = label_small_run("faulty://out")
    assert list(summary.failed_shards) == ["photos-0"]
    assert f"photos-0.tar' cannot be read: {error.__name__}: " in summary.failed_shards["photos-0"]
    # What is wrong with a shard stays so: it is not tried again, as what a store does not give is.
    assert len(denied) == 1
    assert summary.num_sealed == 1


def test_shard_whose_name_is_no_utf8_fails_by_an_escaped_name():
    shard = InputShard(uri="/in/a\udcff.tar", name="a_", size_bytes=1, etag="e")
    (row,) = (row.to_pylist()[0] for row in chunk_source.read_rows([ShardWork(shard=shard)], InputConfig(), REPORTING))
    assert row["error"] == "shard '/in/a\\udcff.tar' does not exist; it was there when it was listed"


def test_shard_that_its_store_gives_later_is_labelled(label_small_run, faulty_uri, monkeypatch):
    deny(monkeypatch, StorageError(DENIED), num_times=MAX_READS - 1)
    summary = label_small_run("faulty://out")
    assert (summary.failed_shards, summary.num_sealed, summary.num_shards_left) == ({}, 2, 0)


@pytest.mark.parametrize("error", [PermissionError(13, "denied for a moment"), OSError(5, "input/output error")])
def test_seal_that_fails_for_a_moment_is_tried_again_in_the_same_invocation(label_small_run, faulty_uri, error):
    failures = [error]

    def fail_once(number, name):
        if "/labels/" in name and failures:
            raise failures.pop()

    FaultyStore.before_write = staticmethod(fail_once)
    engine = SerialEngine()
    summary = label_small_run("faulty://out", engine)
    assert failures == []
    assert (summary.failed_shards, summary.num_sealed, summary.num_shards_left) == ({}, 2, 0)
    assert len(engine.labelled) == len(set(engine.labelled))


def test_plan_whose_store_is_away_is_made_once_it_is_back(open_small_run, faulty_uri, monkeypatch):
    run = open_small_run("faulty://out")
    failures = [ConnectionRefusedError("refused"), OSError(5, "input/output error")]
    find = FaultyStore.find

    def fail_twice(self, path, **arguments):
        if failures:
            raise failures.pop()
        return find(self, path, **arguments)

    monkeypatch.setattr(FaultyStore, "find", fail_twice)
    monkeypatch.setattr(outage, "FIRST_DELAY_S", 0.01)
    warnings = []
    options = replace(OPTIONS, store_outage_s=60.0)
    summary = label_run(run, options, engine=SerialEngine(), on_warning=warnings.append)
    assert summary.num_sealed == 2
    assert any(line.startswith("waiting: ") and "cannot be reached" in line for line in warnings)
    assert any(line.startswith("goes on after a wait of") for line in warnings)
