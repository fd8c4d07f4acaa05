"""Damaged, missing and changed shards: no wrong sample is read, and no sample is lost silently."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.commit.plan import ShardWork
from pipeline.commit.seal import CompleteShard, seal_shard
from pipeline.errors import ShardError
from pipeline.inputs.chunks import describe_change, read_chunks, require_unchanged
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, ShardEnd
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import find_object, list_objects
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import delete, put_atomic
from pipeline.training.data.stream import iterate_usable
from pipeline.training.data.survey import survey_shards
from tests.factories import make_parquet, make_tar
from tests.fakes import REPORTING

VOCABULARY = Vocabulary(classes=("cat",))
SAMPLES = {key: {"jpg": key.encode() * 700, "txt": b"cat"} for key in ("a", "b", "c")}


def read_pieces(path: Path, payload: bytes | bytearray, start_offset: int = 0, first_chunk: int = 0) -> tuple[Any, Any]:
    path.write_bytes(payload)
    (shard,) = list_shards([str(path)])
    config = InputConfig(max_chunk_samples=1)
    *chunks, end = read_chunks(shard, config, start_offset=start_offset, first_chunk=first_chunk)
    assert isinstance(end, ShardEnd)
    return chunks, end


def list_ends(shards: Any) -> dict[str, Any]:
    rows = [
        row.to_pylist()[0] for row in read_rows([ShardWork(shard=shard) for shard in shards], InputConfig(), REPORTING)
    ]
    return {row["shard_name"]: row for row in rows if row["is_end"]}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archive_truncated_at_any_byte_yields_its_complete_samples_and_the_offset(
    tmp_path: Path, tar_format: Any
) -> None:
    name = "ordner/" + "ä" * 60 if tar_format == tarfile.PAX_FORMAT else "a"
    members = {name: {"jpg": b"1" * 5, "txt": b"cat"}, "b": {"jpg": b"2" * 5, "txt": b"cat"}}
    payload = make_tar(tmp_path / "whole.tar", members, tar_format).read_bytes()
    whole, _ = read_pieces(tmp_path / "whole.tar", payload)
    last_byte = len(payload.rstrip(b"\0"))
    for size in range(last_byte // 512 * 512 + 512 + 1):
        if size < 512:
            with pytest.raises(ShardError, match="no tar archive"):
                read_pieces(tmp_path / "truncated.tar", payload[:size])
            continue
        chunks, end = read_pieces(tmp_path / "truncated.tar", payload[:size])
        assert [chunk.samples for chunk in chunks] == [chunk.samples for chunk in whole[: len(chunks)]], size
        assert end.truncated_at == size


def test_archive_with_a_hole_yields_the_samples_before_it_and_the_offset(tmp_path: Path) -> None:
    payload = bytearray(make_tar(tmp_path / "a.tar", SAMPLES).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(payload)) as archive:
        start = archive.getmember("b.jpg").offset
    whole, _ = read_pieces(tmp_path / "a.tar", payload)
    for num_bytes in (512, 600, 1024):
        holed = payload.copy()
        holed[start : start + num_bytes] = bytes(num_bytes)
        chunks, end = read_pieces(tmp_path / "a.tar", holed)
        assert [chunk.samples for chunk in chunks] == [whole[0].samples]
        assert end.truncated_at == start
        assert read_pieces(tmp_path / "a.tar", holed, chunks[0].end_offset, 1) == ([], end)


@pytest.mark.parametrize("num_bytes", [512, 1024, 10_240])
def test_archive_without_members_is_sealed_as_an_empty_manifest(tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(num_bytes))
    (shard,) = list_shards([str(tmp_path)])
    end = list_ends([shard])["a"]
    assert (end["num_chunks"], end["truncated_at"], end["error"]) == (0, None, None)
    complete = CompleteShard(shard=shard, parts=())
    sealed = seal_shard(
        complete, out_uri=str(tmp_path / "out"), fingerprint="f", max_rejected_fraction=0.0, class_texts={}
    )
    assert sealed.counts.num_read == 0


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_file_without_bytes_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    error = list_ends(list_shards([str(tmp_path)]))["a"]["error"]
    assert f"a.{suffix}' is no" in error
    assert "copy it again or leave it out" in error


def test_shard_deleted_since_it_was_listed_is_named_and_the_others_are_read(folder_uri: str, tmp_path: Path) -> None:
    payload = make_tar(tmp_path / "a.tar", SAMPLES).read_bytes()
    for name in ("a.tar", "b.tar"):
        put_atomic(join_uri(folder_uri, name), payload)
    shards = list_shards([folder_uri])
    delete([shards[0].uri])
    ends = list_ends(shards)
    assert ends["a"]["error"] == f"shard '{shards[0].uri}' does not exist; it was there when it was listed"
    assert (ends["b"]["error"], ends["b"]["num_chunks"]) == (None, 1)


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_shard_deleted_before_it_is_opened_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"x")
    (shard,) = list_shards([str(tmp_path)])
    (tmp_path / f"a.{suffix}").unlink()
    with pytest.raises(ShardError, match=f"a.{suffix}' does not exist; it was there when it was listed"):
        next(read_chunks(shard, InputConfig()))


def test_shard_that_changed_since_it_was_listed_is_not_read(folder_uri: str, tmp_path: Path) -> None:
    first = make_tar(tmp_path / "1.tar", SAMPLES).read_bytes()
    other = make_tar(tmp_path / "2.tar", dict(reversed(SAMPLES.items()))).read_bytes()
    assert len(first) == len(other)
    for name in ("a.tar", "b.tar"):
        put_atomic(join_uri(folder_uri, name), first)
    shards = list_shards([folder_uri])
    put_atomic(shards[0].uri, other)
    put_atomic(shards[1].uri, first + first)
    ends = list_ends(shards)
    for name in ("a", "b"):
        assert f"{name}.tar' changed since it was listed" in ends[name]["error"]
    assert [item.etag for item in list_objects(folder_uri)] != [shard.etag for shard in shards]


@pytest.mark.parametrize("make_pattern", [str, "{}/*.tar".format, "{}/{{0..11}}.tar".format, "{}/{{0..1}}.tar".format])
def test_shard_that_did_not_change_is_read_however_it_was_listed(folder_uri: str, make_pattern: Any) -> None:
    for number in range(12):
        put_atomic(join_uri(folder_uri, f"{number}.tar"), bytes(1024))
    for shard in list_shards([make_pattern(folder_uri)]):
        require_unchanged(shard)


def test_shard_listed_without_size_and_etag_is_not_compared(tmp_path: Path) -> None:
    (shard,) = list_shards([str(make_tar(tmp_path / "a.tar", SAMPLES))])
    unknown = replace(shard, size_bytes=0, etag="-0")
    require_unchanged(unknown)
    assert describe_change(unknown, find_object(shard.uri)) == ""
    assert "was 5 bytes" in describe_change(replace(shard, size_bytes=5), find_object(shard.uri))


def test_training_refuses_a_shard_that_changed_since_it_was_listed(tmp_path: Path) -> None:
    columns = {"image": [b"i"], "tags": ["cat"]}
    shards = list_shards([str(make_parquet(tmp_path / "a.parquet", columns))])
    make_parquet(tmp_path / "a.parquet", {"image": [b"ii"], "tags": ["cat"]})
    with pytest.raises(ShardError, match="changed since it was listed"):
        survey_shards(shards, VOCABULARY, InputConfig())
    with pytest.raises(ShardError, match="changed since it was listed"):
        list(iterate_usable(shards, VOCABULARY, InputConfig(), epoch=0))


def test_complete_archive_yields_all_samples(tmp_path: Path) -> None:
    chunks, end = read_pieces(tmp_path / "a.tar", make_tar(tmp_path / "a.tar", SAMPLES).read_bytes())
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert [chunk.samples[0].key for chunk in chunks] == ["a", "b", "c"]
    assert (end.num_chunks, end.truncated_at) == (3, None)
