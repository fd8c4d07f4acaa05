"""Files that are no archive, written by the programs that make them, are named by their first bytes."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.orc
import pytest
from PIL import Image
from tensorboardX.record_writer import RecordWriter

from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import FileKind, recognise_kind
from pipeline.inputs.patterns.first_bytes import require_archives
from pipeline.inputs.shards import list_shards
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import make_parquet

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FORMS = "docs/inputs.md lists under 'Naming shards'"


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"x")


def write_spreadsheet(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", b"<Types/>")


def write_image(image_format: str) -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", (4, 4)).save(path, image_format)


def write_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table photos (key text)")
    connection.close()


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("a", pa.int64())])):
        pass


def write_tfrecord(path: Path) -> None:
    writer = RecordWriter(str(path))
    writer.write(b"an example")
    writer.close()


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def make_archive(tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return buffer.getvalue()


FILES: dict[str, tuple[FileKind, Callable[[Path], object]]] = {
    "lfs": (FileKind.LFS_POINTER, write(LFS_POINTER)),
    "annex": (FileKind.ANNEX_POINTER, write(b"/annex/objects/MD5E-s5--0.tar\n")),
    "dvc": (FileKind.DVC_POINTER, write(b"outs:\n- md5: a304afb96060aad90176268345e10355\n  path: a.tar\n")),
    "login": (FileKind.HTML, write(b"\r\n <!doctype HTML>\n<html><title>Sign in</title>")),
    "xhtml": (FileKind.HTML, write(b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml">')),
    "denied": (FileKind.XML, write(b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>')),
    "coco": (FileKind.JSON, write(json.dumps({"images": [{"id": 1}]}, indent=1).encode())),
    "jsonl": (FileKind.JSON_LINES, write(b'{"file": "a.jpg", "tags": ["cat"]}\n{"file": "b.jpg"}\n')),
    "csv": (FileKind.TABLE, write(b"\xef\xbb\xbffile_name,tags\r\na.jpg,cat\r\n")),
    "latin": (FileKind.TABLE, write("Bild;Wörter\na.jpg;Bär\n".encode("latin-1"))),
    "text": (FileKind.TEXT, write(b"s3://bucket/a.tar\ns3://bucket/b.tar\n")),
    "utf16": (FileKind.TEXT, write("hello\n".encode("utf-16"))),
    "gzip": (FileKind.GZIP, write(gzip.compress(make_archive()))),
    "bzip2": (FileKind.BZIP2, write(bz2.compress(make_archive()))),
    "xz": (FileKind.XZ, write(lzma.compress(make_archive()))),
    "zstd": (FileKind.ZSTD, write(pa.compress(make_archive(), codec="zstd", asbytes=True))),
    "zip": (FileKind.ZIP, write_zip),
    "spreadsheet": (FileKind.OFFICE, write_spreadsheet),
    "7z": (FileKind.SEVEN_ZIP, write(b"7z\xbc\xaf\x27\x1c\x00\x04")),
    "rar": (FileKind.RAR, write(b"Rar!\x1a\x07\x01\x00")),
    "jpeg": (FileKind.IMAGE, write_image("JPEG")),
    "png": (FileKind.IMAGE, write_image("PNG")),
    "webp": (FileKind.IMAGE, write_image("WEBP")),
    "bmp": (FileKind.IMAGE, write_image("BMP")),
    "tiff": (FileKind.IMAGE, write_image("TIFF")),
    "gif": (FileKind.IMAGE, write_image("GIF")),
    "feather": (FileKind.ARROW, lambda path: pa.feather.write_feather(pa.table({"a": [1]}), str(path))),
    "stream": (FileKind.ARROW, write_stream),
    "orc": (FileKind.ORC, lambda path: pa.orc.write_table(pa.table({"a": [1]}), str(path))),
    "tfrecord": (FileKind.TFRECORD, write_tfrecord),
    "sqlite": (FileKind.SQLITE, write_sqlite),
    "lmdb": (FileKind.LMDB, write(bytes(16) + b"\xde\xc0\xef\xbe\x01\x00\x00\x00" + bytes(100))),
    "hdf5": (FileKind.HDF5, write(b"\x89HDF\r\n\x1a\n" + bytes(40))),
    "numpy": (FileKind.NUMPY, lambda path: np.save(path.open("wb"), np.zeros(3))),
    "pickle": (FileKind.PICKLE, write(pickle.dumps({"a": 1}))),
    "noise": (FileKind.UNKNOWN, write(b"\x01\x02\x03\x04" * 300)),
    "zeros": (FileKind.ZEROS, write(bytes(20480))),
    "nothing": (FileKind.EMPTY, write(b"")),
    "table": (FileKind.PARQUET, lambda path: make_parquet(path, {"a": [1]})),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_no_tar_is_refused_with_its_kind_and_what_helps(tmp_path: Path, name: str) -> None:
    kind, write_file = FILES[name]
    path = tmp_path / f"{name}.tar"
    write_file(path)
    with pytest.raises(ShardError) as refusal:
        require_archives(list_shards([str(path)]), pytest.fail)
    assert str(refusal.value) == f"shard '{path}' is no tar archive: it is {kind}; {kind.advice}"


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (FileKind.LFS_POINTER, "git lfs pull"),
        (FileKind.HTML, "download it again"),
        (FileKind.ZSTD, "decompress it"),
        (FileKind.ZIP, "unpack it"),
        (FileKind.TABLE, FORMS),
        (FileKind.JSON_LINES, FORMS),
        (FileKind.IMAGE, FORMS),
        (FileKind.TEXT, "write @ before its name"),
        (FileKind.PARQUET, r"name it *.parquet"),
        (FileKind.HDF5, "pack its images and tags"),
    ],
)
def test_advice_fits_the_kind(kind: FileKind, advice: str) -> None:
    assert advice in kind.advice


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_format_are_tars(tar_format: int) -> None:
    assert recognise_kind(make_archive(tar_format)[:512]) == FileKind.TAR


def test_archive_without_the_mark_of_posix_is_a_tar() -> None:
    """The checksum of an old header covers the fields that the mark takes today."""
    header = bytearray(make_archive(tarfile.USTAR_FORMAT)[:512])
    header[257:] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert recognise_kind(bytes(header)) == FileKind.TAR


def test_empty_archive_and_archives_of_both_formats_pass(folder_uri: str, tmp_path: Path) -> None:
    make_parquet(tmp_path / "c.parquet", {"a": [1]})
    contents = {"a.tar": make_archive(), "b.tar": bytes(10240), "c.parquet": (tmp_path / "c.parquet").read_bytes()}
    for name, content in contents.items():
        put_atomic(join_uri(folder_uri, name), content)
    require_archives(list_shards([join_uri(folder_uri, name) for name in contents]), pytest.fail)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_archive(), r"is no Parquet file: it is a tar archive; name it \*\.tar"),
        (bytes(1024), "is no Parquet file: it is all zeros at its start"),
    ],
)
def test_file_that_is_no_parquet_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ShardError, match=message):
        require_archives(list_shards([str(tmp_path)]), pytest.fail)


def write_shards(folder: Path, contents: list[bytes]) -> str:
    for number, content in enumerate(contents):
        (folder / f"{number:03d}.tar").write_bytes(content)
    return str(folder)


def test_many_files_of_a_kind_are_one_message(tmp_path: Path) -> None:
    shards = list_shards([write_shards(tmp_path, [LFS_POINTER] * 100)])
    message = (
        r"^shard '.*/000.tar' is no tar archive: it is a Git LFS pointer, which holds for 16 of 16 shards looked at;"
    )
    with pytest.raises(ShardError, match=message):
        require_archives(shards, pytest.fail)


def test_most_files_of_several_kinds_are_one_message(tmp_path: Path) -> None:
    shards = list_shards([write_shards(tmp_path, [make_archive(), LFS_POINTER, b"<html>", b"<html>"])])
    with pytest.raises(
        ShardError, match="which holds for 1 of 4 shards looked at, and 2 are an HTML page; run 'git lfs"
    ):
        require_archives(shards, pytest.fail)


def test_minority_of_files_is_a_warning_because_the_others_can_be_labelled(tmp_path: Path) -> None:
    shards = list_shards([write_shards(tmp_path, [*[make_archive()] * 8, LFS_POINTER, os.urandom(9)])])
    warnings: list[str] = []
    require_archives(shards, warnings.append)
    (warning,) = warnings
    assert "008.tar' is no tar archive: it is a Git LFS pointer, which holds for 1 of 10 shards looked at" in warning
