"""Headers of tars by other writers than Python's, read by labelling and by the audit."""

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.audit.archives.tar_members import FoundMember, WatchedStream, list_members
from pipeline.inputs.tar.stream import TarStream, read_members
from pipeline.inputs.tar_reader import MemberGroup, read_groups
from pipeline.run.records import InputShard
from tests.hostile_files import END_MARKS

OCTAL_TIMES = b"15302140162\0" + b"15302140171\0"
"""Times of access and change, as `tar --listed-incremental` writes them."""
SPACED_TIMES = b"15302140162 " + b"15302140171 "
BINARY_TIMES = b"\x80" + (2**40).to_bytes(11, "big") + b"15302140171\0"


def make_gnu_member(
    name: str, payload: bytes, prefix: bytes, kind: bytes = tarfile.REGTYPE, linkname: str = ""
) -> bytes:
    """Make a member with GNU's mark and bytes in the place of POSIX's prefix."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = len(payload), kind, linkname
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + payload + bytes(-len(payload) % tarfile.BLOCKSIZE)


def list_names(archive: bytes) -> tuple[list[str], list[str]]:
    """Names of the members, as labelling and as the audit read them."""
    of_audit = list_members(WatchedStream(io.BytesIO(archive)), len(archive))
    return (
        [member.name for member in read_members(TarStream(io.BytesIO(archive)))],
        [found.header.name for found in of_audit if isinstance(found, FoundMember)],
    )


@pytest.mark.parametrize("times", [OCTAL_TIMES, SPACED_TIMES, BINARY_TIMES])
def test_times_of_incremental_archives_are_no_part_of_names(times: bytes) -> None:
    archive = make_gnu_member("a/1.jpg", b"image", times) + make_gnu_member("./b", b"", times, tarfile.DIRTYPE)
    names = ["a/1.jpg", "./b"]
    assert list_names(archive + END_MARKS) == (names, names)


def test_names_that_start_in_the_prefix_are_whole() -> None:
    """Some writers, such as Go before 1.8, give names of POSIX the mark of GNU."""
    archive = make_gnu_member("1.jpg", b"image", b"a/long/folder") + END_MARKS
    assert list_names(archive) == (["a/long/folder/1.jpg"],) * 2


def test_samples_of_an_incremental_archive_are_whole_and_their_links_are_read(tmp_path: Path) -> None:
    members = [("1.jpg", b"image", ""), ("1.txt", b"cat", ""), ("2.jpg", b"", "1.jpg"), ("2.txt", b"dog", "")]
    path = tmp_path / "incremental.tar"
    path.write_bytes(
        b"".join(
            make_gnu_member(
                name, payload, b"%011o\0" % place * 2, tarfile.LNKTYPE if target else tarfile.REGTYPE, target
            )
            for place, (name, payload, target) in enumerate(members, start=10**9)
        )
        + END_MARKS
    )
    shard = InputShard(uri=str(path), name="a", size_bytes=path.stat().st_size, etag="")
    groups = [group for group in read_groups(shard, max_image_bytes=100) if isinstance(group, MemberGroup)]
    assert [(group.key, group.image, group.tag_payloads) for group in groups] == [
        ("1", b"image", {"txt": b"cat"}),
        ("2", b"image", {"txt": b"dog"}),
    ]
