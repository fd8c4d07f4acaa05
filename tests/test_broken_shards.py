"""Archives that are damaged: nothing wrong is read, and nothing is lost silently."""

import io
import tarfile

import pytest

from pipeline.config import InputConfig
from pipeline.errors import ShardError
from pipeline.records import ShardEnd
from pipeline.shards import list_shards, read_chunks
from tests.factories import make_tar

SAMPLES = {key: {"jpg": key.encode() * 700, "txt": b"cat"} for key in ("a", "b", "c")}


def read_pieces(path, payload, start_offset=0, first_chunk=0):
    path.write_bytes(payload)
    (shard,) = list_shards([str(path)])
    config = InputConfig(max_chunk_samples=1)
    *chunks, end = read_chunks(shard, config, start_offset=start_offset, first_chunk=first_chunk)
    assert isinstance(end, ShardEnd)
    return chunks, end


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archive_cut_at_any_byte_gives_only_whole_samples_and_says_where(tmp_path, tar_format):
    name = "ordner/" + "ä" * 60 if tar_format == tarfile.PAX_FORMAT else "a"
    members = {name: {"jpg": b"1" * 5, "txt": b"cat"}, "b": {"jpg": b"2" * 5, "txt": b"cat"}}
    payload = make_tar(tmp_path / "whole.tar", members, tar_format).read_bytes()
    whole, _ = read_pieces(tmp_path / "whole.tar", payload)
    last_byte = len(payload.rstrip(b"\0"))
    for size in range(last_byte // 512 * 512 + 512 + 1):
        if size < 512:
            with pytest.raises(ShardError, match="no tar archive"):
                read_pieces(tmp_path / "cut.tar", payload[:size])
            continue
        chunks, end = read_pieces(tmp_path / "cut.tar", payload[:size])
        assert [chunk.samples for chunk in chunks] == [chunk.samples for chunk in whole[: len(chunks)]], size
        assert end.truncated_at == size


def test_archive_with_a_hole_gives_the_samples_before_it_and_says_where(tmp_path):
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
