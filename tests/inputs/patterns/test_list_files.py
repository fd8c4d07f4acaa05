"""List files: every encoding that is unambiguous is read, every other one is named with the byte."""

from pathlib import Path

import pytest

from pipeline.errors import BucketError, ShardError
from pipeline.inputs.shards import list_shards
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic

LINES = "# photos of Zoë\r\n\t # {folder}/b.tar\r\n  {folder}/ä.tar  \r\n\r\n{folder}/b.tar\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ä.tar", "b.tar"):
        (tmp_path / name).write_bytes(bytes(1024))
    return tmp_path


def write_list(folder: Path, content: bytes) -> str:
    (folder / "list.txt").write_bytes(content)
    return f"@{folder}/list.txt"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_list_with_or_without_a_byte_order_mark_is_read_without_comments_and_blanks(
    folder: Path, encoding: str
) -> None:
    pattern = write_list(folder, LINES.format(folder=folder).encode(encoding))
    assert [shard.uri for shard in list_shards([pattern])] == [f"{folder}/ä.tar", f"{folder}/b.tar"]


def test_list_of_big_endian_text_with_old_line_ends_is_read(folder: Path) -> None:
    text = "\ufeff" + f"{folder}/ä.tar\r{folder}/b.tar"
    assert len(list_shards([write_list(folder, text.encode("utf-16-be"))])) == 2


def test_lists_that_were_joined_with_their_byte_order_marks_are_read(folder: Path) -> None:
    content = b"".join(f"\ufeff{folder}/{name}\n".encode() for name in ("ä.tar", "b.tar"))
    assert len(list_shards([write_list(folder, content)])) == 2


def test_list_does_not_split_names_at_rare_separators(folder: Path) -> None:
    path = folder / "a\x0b\u2028b.tar"
    path.write_bytes(bytes(1024))
    assert [shard.uri for shard in list_shards([write_list(folder, f"{path}\n".encode())])] == [str(path)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.tar\nGrün.tar".encode("latin-1"), "not UTF-8 but probably Latin-1 or .*: byte 0xfc at offset 8, in line 2"),
        ("a.tar\nGrün.tar".encode("utf-16-le"), "probably UTF-16 without a byte order mark"),
        ("a.tar\n".encode("utf-16-le"), "contains a zero byte at offset 1, so it is probably UTF-16"),
        (b"\xff\xfea", "has the byte order mark of UTF-16 but is not UTF-16: truncated data at offset 2"),
        (b"", "names no shard: it is empty or all comments; write one pattern a line"),
        (b"\n  \n # a.tar\n", "names no shard: it is empty or all comments"),
        (b"\nnowhere.tar", "^line 2 of list '.*list.txt': no shard at '.*nowhere.tar'"),
        (b"what://a.tar", "^line 1 of list '.*list.txt': 'what://a.tar' has the unknown scheme 'what'"),
        (b"@other.txt", "^line 1 of list '.*list.txt' names another list, '@other.txt'.*; give each list by itself"),
        (b'["a.tar", "b.tar"]', "is a JSON document, not a text; write one path or URI of a shard a line"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not a text; run 'git lfs pull'"),
        (b"PAR1" + bytes(99), "the file is a Parquet file; leave out the '@' to read it as a shard"),
    ],
)
def test_list_that_cannot_be_used_is_refused_with_the_reason(folder: Path, content: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        list_shards([write_list(folder, content)])


def test_list_that_names_itself_is_refused(folder: Path) -> None:
    pattern = write_list(folder, f"{folder}/b.tar\n@{folder}/./list.txt".encode())
    with pytest.raises(ShardError, match="line 2 of list '.*list.txt' names the list itself; delete the line"):
        list_shards([pattern])


def test_folder_after_the_mark_of_a_list_is_refused_on_every_store(folder_uri: str) -> None:
    put_atomic(join_uri(folder_uri, "a.tar"), bytes(1024))
    with pytest.raises(ShardError, match="a folder follows '@'; leave out the '@' to read its shards"):
        list_shards([f"@{folder_uri}"])
    with pytest.raises(ShardError, match=r"list of shards '.*/none.txt' does not exist"):
        list_shards([f"@{folder_uri}/none.txt"])
    with pytest.raises(ShardError, match="'@' alone names no list"):
        list_shards(["@"])


def test_list_in_a_bucket_that_does_not_exist_names_the_bucket(s3_folder: str) -> None:
    assert s3_folder
    with pytest.raises(BucketError, match=r"bucket 'no-such-bucket' of 's3://no-such-bucket/list.txt' does not exist"):
        list_shards(["@S3://no-such-bucket/list.txt"])
