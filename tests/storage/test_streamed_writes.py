"""Files that are written piece by piece appear whole, or not at all."""

import pytest

from pipeline.storage.listing import exists
from pipeline.storage.reading import read_bytes
from pipeline.storage.writing import ONE_REQUEST_BYTES, open_atomic


def test_streamed_file_appears_at_its_end(folder_uri: str) -> None:
    with open_atomic(f"{folder_uri}/a/b.bin") as file:
        file.write(b"one")
        assert not exists(f"{folder_uri}/a/b.bin")
        file.write(b"two")
    assert read_bytes(f"{folder_uri}/a/b.bin") == b"onetwo"


def fail_while_writing(uri: str, content: bytes) -> None:
    with open_atomic(uri) as file:
        file.write(content)
        raise ZeroDivisionError


def test_streamed_file_that_fails_leaves_the_one_before(folder_uri: str) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_while_writing(f"{folder_uri}/b.bin", b"first")
    assert not exists(f"{folder_uri}/b.bin")
    with open_atomic(f"{folder_uri}/b.bin") as file:
        file.write(b"second")
    with pytest.raises(ZeroDivisionError):
        fail_while_writing(f"{folder_uri}/b.bin", b"third")
    assert read_bytes(f"{folder_uri}/b.bin") == b"second"


def test_object_of_several_requests_is_whole(s3_folder: str) -> None:
    content = bytes(range(256)) * (ONE_REQUEST_BYTES // 256 + 1)
    with open_atomic(f"{s3_folder}/large.bin") as file:
        file.write(content)
    assert read_bytes(f"{s3_folder}/large.bin") == content
