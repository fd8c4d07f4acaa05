"""Kinds of files by their first bytes, and what helps if one was given as a shard."""

import json
import re
import tarfile
from contextlib import suppress
from enum import StrEnum

HEAD_BYTES = 512
"""Bytes that `recognise_kind` needs: the header of a tar's first member."""


class FileKind(StrEnum):
    """Kind of a file; its value is a noun phrase for messages."""

    TAR = "a tar archive"
    PARQUET = "a Parquet file"
    EMPTY = "empty"
    ZEROS = "all zeros at its start"
    LFS_POINTER = "a Git LFS pointer"
    ANNEX_POINTER = "a git-annex pointer"
    DVC_POINTER = "a DVC pointer"
    HTML = "an HTML page"
    XML = "an XML document"
    JSON = "a JSON document"
    JSON_LINES = "a JSONL table"
    TABLE = "a CSV table"
    TEXT = "a text"
    GZIP = "compressed with gzip"
    ZSTD = "compressed with zstd"
    BZIP2 = "compressed with bzip2"
    XZ = "compressed with xz"
    LZ4 = "compressed with lz4"
    ZIP = "a zip archive"
    OFFICE = "an Excel or Office document"
    SEVEN_ZIP = "a 7z archive"
    RAR = "a rar archive"
    CPIO = "a cpio archive"
    IMAGE = "an image"
    PDF = "a PDF document"
    VIDEO = "a video"
    ARROW = "an Arrow IPC (feather) file"
    ORC = "an ORC file"
    AVRO = "an Avro file"
    TFRECORD = "a TFRecord file"
    RECORDIO = "a RecordIO file"
    SQLITE = "an SQLite database"
    LMDB = "an LMDB database"
    HDF5 = "an HDF5 file"
    NUMPY = "a NumPy array"
    PICKLE = "a pickle"
    UNKNOWN = "of an unknown format"

    @property
    def advice(self) -> str:
        """What to do with a file of this kind that was given as a shard."""
        return ADVICE.get(self, CONVERT)

    @property
    def is_archive(self) -> bool:
        """Whether shards are files of this kind."""
        return self in (FileKind.TAR, FileKind.PARQUET)


CONVERT = "pack its images and tags into tars or Parquet files, as docs/inputs.md describes"
DECOMPRESS = "decompress it, as images do not shrink"
COPY_AGAIN = "copy it again or leave it out"
FORMS = "docs/inputs.md lists under 'Naming shards' in which forms --shards takes loose images and tables"
ADVICE = {
    FileKind.TAR: "name it *.tar",
    FileKind.PARQUET: "name it *.parquet",
    FileKind.EMPTY: COPY_AGAIN,
    FileKind.ZEROS: "its copy probably did not finish, so copy it again",
    FileKind.LFS_POINTER: "run 'git lfs pull' in its repository to get the content",
    FileKind.ANNEX_POINTER: "run 'git annex get' in its repository to get the content",
    FileKind.DVC_POINTER: "run 'dvc pull' in its repository to get the content",
    FileKind.HTML: "a login or error page was probably saved in its place, so download it again",
    FileKind.XML: "the error message of a store was probably saved in its place, so download it again",
    FileKind.JSON: FORMS,
    FileKind.JSON_LINES: FORMS,
    FileKind.TABLE: FORMS,
    FileKind.IMAGE: FORMS,
    FileKind.TEXT: "if it lists shards, write @ before its name; otherwise download it again",
    FileKind.GZIP: DECOMPRESS,
    FileKind.ZSTD: DECOMPRESS,
    FileKind.BZIP2: DECOMPRESS,
    FileKind.XZ: DECOMPRESS,
    FileKind.LZ4: DECOMPRESS,
    FileKind.ZIP: "unpack it and pack its files with tar",
    FileKind.OFFICE: "save its table as CSV in UTF-8, and name that",
    FileKind.SEVEN_ZIP: "unpack it and pack its files with tar",
    FileKind.RAR: "unpack it and pack its files with tar",
    FileKind.CPIO: "unpack it and pack its files with tar",
    FileKind.UNKNOWN: "check that it is a tar or a Parquet file, and copy it again or leave it out",
}
IN_PLACE_OF_TEXT = frozenset(
    {FileKind.LFS_POINTER, FileKind.ANNEX_POINTER, FileKind.DVC_POINTER, FileKind.HTML, FileKind.XML, FileKind.ZEROS}
)
"""Kinds of files that are saved in place of a list or a table."""
MAGIC = (
    (b"PAR1", FileKind.PARQUET),
    (b"PARE", FileKind.PARQUET),
    (b"version https://git-lfs.github.com/spec/", FileKind.LFS_POINTER),
    (b"/annex/objects/", FileKind.ANNEX_POINTER),
    (b"outs:\n- md5:", FileKind.DVC_POINTER),
    (b"\x1f\x8b", FileKind.GZIP),
    (b"\x28\xb5\x2f\xfd", FileKind.ZSTD),
    (b"BZh", FileKind.BZIP2),
    (b"\xfd7zXZ\x00", FileKind.XZ),
    (b"\x04\x22\x4d\x18", FileKind.LZ4),
    (b"PK\x03\x04", FileKind.ZIP),
    (b"PK\x05\x06", FileKind.ZIP),
    (b"7z\xbc\xaf\x27\x1c", FileKind.SEVEN_ZIP),
    (b"Rar!\x1a\x07", FileKind.RAR),
    (b"070701", FileKind.CPIO),
    (b"070707", FileKind.CPIO),
    (b"\xff\xd8\xff", FileKind.IMAGE),
    (b"\x89PNG\r\n\x1a\n", FileKind.IMAGE),
    (b"GIF87a", FileKind.IMAGE),
    (b"GIF89a", FileKind.IMAGE),
    (b"II*\x00", FileKind.IMAGE),
    (b"MM\x00*", FileKind.IMAGE),
    (b"\x00\x00\x00\x0cJXL ", FileKind.IMAGE),
    (b"\x00\x00\x00\x0cjP  ", FileKind.IMAGE),
    (b"\x1a\x45\xdf\xa3", FileKind.VIDEO),
    (b"%PDF-", FileKind.PDF),
    (b"ARROW1", FileKind.ARROW),
    (b"FEA1", FileKind.ARROW),
    (b"\xff\xff\xff\xff", FileKind.ARROW),
    (b"ORC", FileKind.ORC),
    (b"Obj\x01", FileKind.AVRO),
    (b"\x0a\x23\xd7\xce", FileKind.RECORDIO),
    (b"SQLite format 3\x00", FileKind.SQLITE),
    (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
    (b"\x93NUMPY", FileKind.NUMPY),
)
"""First bytes of formats."""
ZIP_NAME_OFFSET = 30
"""Offset of the name of the first member of a zip archive."""
OFFICE_MEMBERS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/", b"mimetypeapplication/vnd.oasis")
"""First members of documents of Microsoft and OpenDocument."""
LMDB_MAGIC = b"\xde\xc0\xef\xbe"
LMDB_OFFSET = 16
IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
"""Brands of ISO media files that contain an image."""
HTML_START = re.compile(rb"<(!doctype html|html|head|body|script|!--)", re.IGNORECASE)
DELIMITER = re.compile(r"[,;\t|]")
CONTROL_BYTES = bytes(set(range(32)) - {7, 8, 9, 10, 11, 12, 13, 27})
CRC32C_POLYNOMIAL = 0x82F63B78
MAX_PICKLE_PROTOCOL = 5


def recognise_kind(head: bytes) -> FileKind:
    """Recognise the kind of a file by its first 512 bytes; fewer if it is shorter.

    >>> str(recognise_kind(b"version https://git-lfs.github.com/spec/v1")), str(recognise_kind(b"file,tags"))
    ('a Git LFS pointer', 'a text')
    """
    if not head:
        return FileKind.EMPTY
    if not head.strip(b"\0"):
        return FileKind.ZEROS
    if _is_tar(head):
        return FileKind.TAR
    for magic, kind in MAGIC:
        if head.startswith(magic):
            is_office = kind == FileKind.ZIP and head[ZIP_NAME_OFFSET:].startswith(OFFICE_MEMBERS)
            return FileKind.OFFICE if is_office else kind
    return _recognise_structure(head) or _recognise_text(head.removeprefix(b"\xef\xbb\xbf"))


def _is_tar(head: bytes) -> bool:
    """Check for the header of a member: its mark, or in old archives its checksum."""
    if head[257:262] == b"ustar":
        return True
    with suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        return True
    return False


def _recognise_structure(head: bytes) -> FileKind | None:
    """Recognise formats whose mark is not at the start."""
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"AVI "):
        return FileKind.IMAGE if head[8:12] == b"WEBP" else FileKind.VIDEO
    if head[4:8] == b"ftyp":
        return FileKind.IMAGE if head[8:12] in IMAGE_BRANDS else FileKind.VIDEO
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return FileKind.IMAGE
    if head[LMDB_OFFSET : LMDB_OFFSET + 4] == LMDB_MAGIC:
        return FileKind.LMDB
    if len(head) >= 12 and head[8:12] == _mask_crc32c(head[:8]).to_bytes(4, "little"):
        return FileKind.TFRECORD
    # Opcode of the protocol; from protocol 4 on a frame follows.
    if head[:1] == b"\x80" and 2 <= head[1] <= MAX_PICKLE_PROTOCOL:
        return FileKind.PICKLE
    return None


def _mask_crc32c(content: bytes) -> int:
    """Masked checksum of TFRecord, which follows the length of a record."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CRC32C_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _recognise_text(head: bytes) -> FileKind:
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    if encoding == "utf-8" and head.translate(None, CONTROL_BYTES) != head:
        return FileKind.UNKNOWN
    # The last character may be cut.
    text = head.decode(encoding, errors="replace")
    if text.count("\N{REPLACEMENT CHARACTER}") > len(text) // 10 + 1:
        return FileKind.UNKNOWN
    stripped = text.lstrip()
    if HTML_START.match(stripped.encode()):
        return FileKind.HTML
    if stripped.startswith("<?xml") or stripped.startswith("<Error>"):
        return FileKind.HTML if "<html" in stripped.lower() else FileKind.XML
    if stripped.startswith(("{", "[")):
        return _recognise_json(stripped)
    lines = stripped.splitlines()
    counts = {len(DELIMITER.findall(line)) for line in lines[:2]}
    return FileKind.TABLE if len(lines) > 1 and len(counts) == 1 and counts != {0} else FileKind.TEXT


def _recognise_json(text: str) -> FileKind:
    """Recognise JSONL by a first line that is a whole object; a brace pattern is a text."""
    first, newline, _ = text.partition("\n")
    with suppress(ValueError):
        json.loads(first)
        return FileKind.JSON_LINES if newline and first.startswith("{") else FileKind.JSON
    return FileKind.JSON if re.match(r"[\[{]\s*([\[{\"\]}]|-?\d|true|false|null|$)", text) else FileKind.TEXT
