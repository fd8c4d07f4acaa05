"""Files that attack their readers, each made from a harmless one."""

import io
import struct
import tarfile
import zlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BLOCK = tarfile.BLOCKSIZE
END_MARKS = bytes(2 * BLOCK)


def strip_end(archive: bytes) -> bytes:
    """Remove the end marks of an archive."""
    content = archive.rstrip(b"\0")
    return content + bytes(-len(content) % BLOCK)


def make_header(name: str, size: int, kind: bytes = tarfile.REGTYPE, size_field: bytes | None = None) -> bytes:
    """Make the header of a member; `size_field` replaces the field of the size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if size_field is not None:
        block[124:136] = size_field.ljust(12, b"\0")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def make_member(name: str, payload: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Make a member: its header, and its payload padded to blocks."""
    return make_header(name, len(payload), kind) + payload + bytes(-len(payload) % BLOCK)


def make_pax_chain(archive: bytes, number: int) -> bytes:
    """Append a chain of headers to an archive: tarfile recurses once for each."""
    return strip_end(archive) + number * make_member("x", b"12 path=abc\n", tarfile.XHDTYPE) + END_MARKS


def make_gnu_chain(archive: bytes, number: int) -> bytes:
    """Append a chain of headers with long names."""
    return strip_end(archive) + number * make_member("././@LongLink", b"name\0", tarfile.GNUTYPE_LONGNAME) + END_MARKS


def make_huge_header(archive: bytes, kind: bytes) -> bytes:
    """Append a header that claims a terabyte of text."""
    size = (0o200 << 88 | 2**40).to_bytes(12, "big")
    return strip_end(archive) + make_header("x", 0, kind, size) + bytes(20 * 2**20)


def make_digits(archive: bytes, number: int) -> bytes:
    """Append a pax header of digits, for which tarfile's regular expression takes quadratic time."""
    return strip_end(archive) + make_member("x", b"1" * number, tarfile.XHDTYPE) + END_MARKS


def find_page(path: object, column: int = 0) -> int:
    """Offset of the first page of a column in the first row group."""
    found = pq.ParquetFile(path).metadata.row_group(0).column(column)
    return found.dictionary_page_offset or found.data_page_offset


def write_page_bomb(path: object, num_bytes: int, *, use_dictionary: bool, number: int = 1) -> None:
    """Write a Parquet file of kilobytes with an image of `num_bytes` zeros in each of `number` rows."""
    images = pa.array([bytes(num_bytes)], pa.large_binary()).take(pa.array([0] * number))
    table = pa.table({"image": images, "tags": ["cat"] * number})
    pq.write_table(table, path, compression="zstd", use_dictionary=use_dictionary, write_statistics=False)


def write_list_bomb(path: object, num_values: int) -> None:
    """Write a Parquet file of kilobytes whose one row has millions of tags."""
    values = pa.DictionaryArray.from_arrays(pa.nulls(num_values, pa.int32()).fill_null(0), pa.array(["cat"]))
    tags = pa.ListArray.from_arrays(pa.array([0, num_values], pa.int32()), values)
    table = pa.table({"image": pa.array([b"i"], pa.binary()), "tags": tags})
    pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False)


def make_scan_bomb(photo: bytes, number: int) -> bytes:
    """Make a JPEG progressive and repeat its last scan."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(buffer, "JPEG", progressive=True)
    progressive = buffer.getvalue()
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    return progressive[:-2] + number * last + progressive[-2:]


def make_segment_bomb(photo: bytes, number: int, segment: bytes = b"\xff\xe0\x00\x02") -> bytes:
    """Insert segments before the scans of a JPEG."""
    return photo[:2] + number * segment + photo[2:]


def make_chunk_bomb(png: bytes, number: int) -> bytes:
    """Insert empty chunks into a PNG."""
    kind = b"abCd"
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    return png[:33] + number * chunk + png[33:]


def make_text_bomb(png: bytes, num_bytes: int, kind: bytes = b"zTXt") -> bytes:
    """Insert a text or profile into a PNG that unpacks to `num_bytes` zeros."""
    content = b"x\0\0" + zlib.compress(bytes(num_bytes), 9)
    return png[:33] + struct.pack(">I", len(content)) + kind + content + _checksum(kind + content) + png[33:]


def _checksum(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def make_block_bomb(gif: bytes, block: bytes, number: int) -> bytes:
    """Insert a comment of many blocks before the first frame of a GIF."""
    start = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)
    return gif[:start] + b"!\xfe" + number * block + b"\0" + gif[start:]


def make_tiff(entries: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Make a TIFF of a header and entries: tag, kind, number of values, value or offset."""
    packed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + packed + bytes(4)


def nest(depth: int) -> bytes:
    """JSON of tags in nested lists."""
    return b'{"tags": ' + b"[" * depth + b"]" * depth + b"}"
