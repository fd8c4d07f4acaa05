"""Archives that attack their reader: each fails by name or as a rejected row, in bounded memory, beside good ones."""

import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any, Never

import pytest

from pipeline.commit.plan import ShardWork
from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.sample_tags import MAX_TAG_LETTERS, MAX_TAGS, MAX_TAGS_BYTES
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, Reason
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.data.stream import iterate_usable
from pipeline.training.data.survey import find_unusable_reason, survey_shards
from tests.factories import make_tar
from tests.fakes import REPORTING
from tests.hostile_files import (
    END_MARKS,
    make_digits,
    make_gnu_chain,
    make_header,
    make_huge_header,
    make_member,
    make_pax_chain,
    nest,
    strip_end,
)

VOCABULARY = Vocabulary(classes=("cat",))
SAMPLES = {key: {"jpg": key.encode() * 700, "txt": b"cat"} for key in ("a", "b", "c")}


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    return make_tar(tmp_path / "good.tar", SAMPLES).read_bytes()


def write(tmp_path: Path, payload: bytes) -> Any:
    (tmp_path / "hostile.tar").write_bytes(payload)
    return list_shards([str(tmp_path / "hostile.tar")])[0]


def read_samples(shard: Any, **options: Any) -> list[Any]:
    pieces = read_chunks(shard, InputConfig(**options))
    return [sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples]


HOSTILE = {
    "pax chain": lambda good: make_pax_chain(good, 400),
    "long pax chain": lambda good: make_pax_chain(good, 5000),
    "GNU chain": lambda good: make_gnu_chain(good, 1000),
    "huge pax header": lambda good: make_huge_header(good, tarfile.XHDTYPE),
    "huge global header": lambda good: make_huge_header(good, tarfile.XGLTYPE),
    "huge long name": lambda good: make_huge_header(good, tarfile.GNUTYPE_LONGNAME),
    "huge long link": lambda good: make_huge_header(good, tarfile.GNUTYPE_LONGLINK),
    "a long number": lambda good: make_digits(good, 200_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_header_fails_its_shard_by_name_wherever_it_is_read(tmp_path: Path, good: bytes, kind: Any) -> None:
    shard = write(tmp_path, HOSTILE[kind](good))
    shards = [shard, *list_shards([str(tmp_path / "good.tar")])]
    tracemalloc.start()
    rows = [row.to_pylist()[0] for row in read_rows([ShardWork(shard=one) for one in shards], InputConfig(), REPORTING)]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ends = {row["shard_name"]: row for row in rows if row["is_end"]}
    assert ends["hostile"]["error"].startswith(f"shard '{shard.uri}' cannot be read: ")
    assert ends["hostile"]["is_store_error"] is False
    assert (ends["good"]["error"], ends["good"]["num_chunks"]) == (None, 1)
    # A terabyte is not even requested; the stream itself takes pieces of megabytes.
    assert peak_bytes < 100 * 2**20
    for read in (
        lambda: survey_shards([shard], VOCABULARY, InputConfig()),
        lambda: list(iterate_usable([shard], VOCABULARY, InputConfig(), epoch=0)),
    ):
        with pytest.raises(ShardError, match="hostile.tar' cannot be read: "):
            read()


@pytest.mark.parametrize("error", [RecursionError, MemoryError, KeyError, UnicodeError, ArithmeticError, SystemError])
def test_any_error_of_a_parser_fails_the_shard_by_name(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    shard = write(tmp_path, good)

    def fail(archive: Any) -> Never:
        raise error("such a\x1b[2J thing")

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    if issubclass(error, ValueError):
        # tarfile raises these for invalid headers: the archive counts as truncated there.
        assert [
            row.to_pylist()[0]["truncated_at"] for row in read_rows([ShardWork(shard=shard)], InputConfig(), REPORTING)
        ] == [0]
        return
    with pytest.raises(ShardError, match=rf"hostile.tar' cannot be read: {error.__name__}: .*such a.*x1b\[2J thing"):
        read_samples(shard)


def test_chain_that_tarfile_can_follow_is_read(tmp_path: Path, good: bytes) -> None:
    chained = make_pax_chain(good, 100)[: -len(END_MARKS)] + make_member("ignored", b"1") + END_MARKS
    assert [sample.key for sample in read_samples(write(tmp_path, chained))][:3] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\xff" * 11 + b"\0", b"-0000000100", b"\x80" + b"\xff" * 11, b"77777777777\0", b"\x90"]
)
def test_impossible_sizes_end_the_archive_without_a_wrong_sample(tmp_path: Path, good: bytes, size: bytes) -> None:
    payload = strip_end(good) + make_header("d.jpg", 0, size_field=size) + make_member("e.txt", b"cat") + END_MARKS
    shard = write(tmp_path, payload)
    try:
        pieces = list(read_chunks(shard, InputConfig()))
    except ShardError:
        return
    assert pieces[-1].truncated_at is not None
    assert [sample.key for sample in pieces[0].samples][:3] == ["a", "b", "c"]
    assert all(sample.image is None for sample in pieces[0].samples[3:])


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE, tarfile.FIFOTYPE, b"Z"])
def test_members_other_than_regular_files_are_not_images(tmp_path: Path, good: bytes, kind: Any) -> None:
    payload = strip_end(good) + make_member("d.jpg", b"", kind) + make_member("d.txt", b"cat") + END_MARKS
    try:
        samples = read_samples(write(tmp_path, payload))
    except ShardError:
        return
    assert [sample.key for sample in samples][:3] == ["a", "b", "c"]
    # Members of an unknown type are regular files, by the standard and by tarfile.
    assert all(sample.image in (None, b"") for sample in samples[3:])


def test_name_that_is_not_utf8_is_a_key_that_can_be_written(tmp_path: Path, good: bytes) -> None:
    header = bytearray(make_member("d.jpg", b"1"))
    header[0:1] = b"\xff"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    shard = write(tmp_path, strip_end(good) + bytes(header) + END_MARKS)
    rows = [row.to_pylist()[0] for row in read_rows([ShardWork(shard=shard)], InputConfig(), REPORTING)]
    assert [sample["key"] for sample in rows[0]["samples"]] == ["a", "b", "c", "\\xff"]


def test_image_above_the_limit_is_skipped_and_its_row_contains_the_limit(tmp_path: Path) -> None:
    samples = {
        "a": {"jpg": b"1" * 1001, "json": b'{"tags": ["cat"]}'},
        "b": {"png": b"2" * 1000, "json": b'{"tags": ["cat"]}'},
    }
    make_tar(tmp_path / "hostile.tar", samples)
    (shard,) = list_shards([str(tmp_path)])
    large, small = read_samples(shard, max_image_bytes=1000)
    assert (large.image, large.image_name, large.tags) == (None, "jpg", ("cat",))
    assert large.image_error == "the image has 1001 bytes, limit 1000 (--inputs.max-image-bytes)"
    assert find_unusable_reason(large, [1]) == Reason.TOO_LARGE
    assert (len(small.image), small.image_error) == (1000, "")
    survey = survey_shards([shard], VOCABULARY, InputConfig(max_image_bytes=1000))
    assert (survey.num_usable, survey.unusable) == (1, {"too_large": 1})


@pytest.mark.parametrize("is_truncated", [False, True])
def test_image_of_gigabytes_is_never_held_in_memory(tmp_path: Path, good: bytes, is_truncated: bool) -> None:
    """A hole in the file stands for 12 GiB of zeros."""
    size = 12 * 2**30
    path = tmp_path / "hostile.tar"
    with path.open("wb") as file:
        file.write(make_header("huge.jpg", 0, size_field=b"\x80" + size.to_bytes(11, "big")))
        file.truncate(512 + size)
        file.seek(512 + size)
        file.write(make_member("huge.txt", b"cat") + good)
        file.truncate(512 + size - 1 if is_truncated else file.tell())
    tracemalloc.start()
    *chunks, end = read_chunks(list_shards([str(path)])[0], InputConfig())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50 * 2**20
    assert end.truncated_at == (512 + size - 1 if is_truncated else None)
    if is_truncated:
        assert chunks == []
        return
    # The size of the image closes its chunk, although it was not read.
    samples = [sample for chunk in chunks for sample in chunk.samples]
    assert [(sample.key, sample.image_error != "") for sample in samples] == [
        ("huge", True),
        ("a", False),
        ("b", False),
        ("c", False),
    ]
    assert samples[0].tags == ("cat",)


@pytest.mark.parametrize(
    ("suffix", "payload", "error"),
    [
        ("json", b" " * (MAX_TAGS_BYTES + 1), f"'a.json' has {MAX_TAGS_BYTES + 1} bytes, limit {MAX_TAGS_BYTES}"),
        ("txt", b"x" * (MAX_TAGS_BYTES + 1), f"'a.txt' has {MAX_TAGS_BYTES + 1} bytes, limit {MAX_TAGS_BYTES}"),
        ("txt", b"x," * (MAX_TAGS + 1), f"'a.txt' holds {MAX_TAGS + 1} tags, limit {MAX_TAGS}"),
        ("cls", b"a," * (MAX_TAGS + 1), f"'a.cls' holds {MAX_TAGS + 1} tags, limit {MAX_TAGS}"),
        (
            "txt",
            b"x" * (MAX_TAG_LETTERS + 1),
            f"'a.txt' holds tags of {MAX_TAG_LETTERS + 1} letters, limit {MAX_TAG_LETTERS}",
        ),
        ("json", nest(100_000), "'a.json' is not JSON: "),
        ("json", nest(500), "'a.json': field 'tags' holds a list in a list"),
        ("json", b'{"tags": [' + b"9" * 5000 + b"]}", "'a.json' is not JSON: "),
        ("json", b'{"tags": ["\\ud800"]}', ""),
    ],
)
def test_tags_beyond_the_limits_are_a_rejected_row(tmp_path: Path, suffix: str, payload: Any, error: str) -> None:
    make_tar(tmp_path / "hostile.tar", {"a": {"jpg": b"1", suffix: payload}, "b": {"jpg": b"2", "txt": b"cat"}})
    hostile, good = read_samples(list_shards([str(tmp_path)])[0])
    assert hostile.tags_error.startswith(error)
    assert bool(hostile.tags_error) == bool(error)
    assert hostile.image == b"1"
    assert good.tags == ("cat",)


def test_large_member_that_is_not_needed_for_the_tags_is_ignored(tmp_path: Path) -> None:
    members = {"jpg": b"1", "json": json.dumps({"tags": ["cat"]}).encode(), "txt": b"x" * (MAX_TAGS_BYTES + 1)}
    make_tar(tmp_path / "hostile.tar", {"a": members})
    (sample,) = read_samples(list_shards([str(tmp_path)])[0])
    assert (sample.tags, sample.tags_error) == (("cat",), "")
