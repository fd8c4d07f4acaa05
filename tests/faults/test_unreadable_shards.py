"""A shard that its store does not give: the others are labelled, and it is tried again, though not for ever."""

import pytest

from pipeline import chunk_source
from pipeline.errors import StorageError
from pipeline.label import MAX_READS
from tests.faults.conftest import read_all

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


def test_shard_that_its_store_gives_later_is_labelled(label_small_run, faulty_uri, monkeypatch):
    deny(monkeypatch, StorageError(DENIED), num_times=MAX_READS - 1)
    summary = label_small_run("faulty://out")
    assert (summary.failed_shards, summary.num_sealed, summary.num_shards_left) == ({}, 2, 0)
