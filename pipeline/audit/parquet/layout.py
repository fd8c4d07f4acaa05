"""Layout of a Parquet file, checked byte by byte: contiguous pages with checksums, from its first bytes to its footer.

Each reader checks only what it needs. Here every byte is accounted for: bytes of no page and no field are refused.
Arrow does not parse anything.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.audit.parquet.structs import FILE_META_DATA, PAGE_HEADER
from pipeline.audit.parquet.thrift_compact import ThriftError, decode_struct
from pipeline.errors import ManifestError
from pipeline.storage.reading import ByteStream

MAGIC = b"PAR1"
TAIL_BYTES = 64 * 2**10
"""Bytes read from the end of a file in one request; most footers are smaller."""
MAX_FOOTER_BYTES = 256 * 2**20
MAX_PAGE_BYTES = 2**30
"""Our writer closes a page at 1 MiB; a single value may be larger."""

DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8
BYTE_ARRAY = 6
CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}

Footer = Mapping[str, Any]
"""`FileMetaData`, decoded by `thrift_compact`."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Footer and size of a file."""

    footer: Footer
    num_bytes: int
    """Of the whole file."""

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """Key-value metadata of the file."""
        return {entry["key"]: entry.get("value", b"") for entry in self.footer.get("key_value_metadata", [])}

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """Description of each row group."""
        return self.footer["row_groups"]


def read_layout(stream: ByteStream, uri: str) -> Layout:
    """Read the footer of a file and check its consistency.

    Raises:
        ManifestError: The file is not a Parquet file of our writer.
    """
    num_bytes = stream.seek(0, 2)
    tail = read_at(stream, max(0, num_bytes - TAIL_BYTES), min(num_bytes, TAIL_BYTES))
    footer_bytes = int.from_bytes(tail[-8:-4], "little")
    footer_offset = num_bytes - 8 - footer_bytes
    try:
        if tail[-4:] != MAGIC or footer_offset < len(MAGIC) or footer_bytes > MAX_FOOTER_BYTES:
            raise ThriftError(f"its last bytes {tail[-8:].hex(' ')} are not the end of a Parquet file")
        if footer_bytes + 8 > len(tail):
            tail = read_at(stream, footer_offset, footer_bytes + 8)
        start = len(tail) - 8 - footer_bytes
        footer, end = decode_struct(tail, start, len(tail) - 8, FILE_META_DATA, "FileMetaData")
        if end != len(tail) - 8:
            raise ThriftError(f"its footer ends {len(tail) - 8 - end} bytes early")
        _require_agreement(footer, footer_offset)
    except ThriftError as error:
        raise ManifestError(f"'{uri}' is damaged: {error}; label the shard again") from error
    return Layout(footer=footer, num_bytes=num_bytes)


def require_pages(stream: ByteStream, layout: Layout, group_index: int, uri: str) -> list[list[Mapping[str, Any]]]:
    """Read and check all pages of a row group, with one column in memory.

    Returns:
        The headers of the data pages of each column.

    Raises:
        ManifestError: A page lacks its checksum, or contradicts its checksum or the footer.
    """
    found = []
    for place, chunk in enumerate(layout.groups[group_index]["columns"]):
        column = chunk["meta_data"]
        try:
            payload = read_at(stream, _get_start(column), column["total_compressed_size"])
            found.append(_check_pages(payload, column))
        except ThriftError as error:
            name = b".".join(column["path_in_schema"]).decode(errors="backslashreplace")
            raise ManifestError(
                f"'{uri}' is damaged: row group {group_index}, column {place} ('{name}'): {error}; "
                "label the shard again"
            ) from error
    return found


def require_head(stream: ByteStream, uri: str) -> None:
    """Check the first bytes of a file, which some readers ignore.

    Raises:
        ManifestError: They are not those of a Parquet file.
    """
    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        raise ManifestError(f"'{uri}' is damaged: it does not begin as Parquet files do; label the shard again")


def read_at(stream: ByteStream, offset: int, size: int) -> bytes:
    """Read bytes of a file.

    Raises:
        ThriftError: The file ends before.
    """
    stream.seek(offset)
    pieces = []
    missing = size
    while missing > 0 and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    if missing > 0:
        raise ThriftError(f"it ends {missing} bytes early")
    return b"".join(pieces)


def _get_start(column: Mapping[str, Any]) -> int:
    return column.get("dictionary_page_offset", column["data_page_offset"])


def _require_agreement(footer: Footer, footer_offset: int) -> None:
    """Check that row groups and columns fill the file, and check their sums."""
    _require(footer["version"] == 2, f"its format version is {footer['version']}")
    leaves = [element for element in footer["schema"] if "num_children" not in element]
    _require(len(footer.get("column_orders", [])) == len(leaves), "it has not one column order for each column")
    offset = len(MAGIC)
    for index, group in enumerate(footer["row_groups"]):
        columns = [chunk["meta_data"] for chunk in group["columns"]]
        _require(len(columns) == len(leaves), f"row group {index} has {len(columns)} of {len(leaves)} columns")
        _require(group.get("ordinal", index) == index, f"row group {index} has the number {group.get('ordinal')}")
        _require(group.get("file_offset", offset) == offset, f"row group {index} does not start at its stated offset")
        for name, total in (
            ("total_byte_size", "total_uncompressed_size"),
            ("total_compressed_size", "total_compressed_size"),
        ):
            num_bytes = sum(column[total] for column in columns)
            _require(
                group.get(name, num_bytes) == num_bytes, f"{name} of row group {index} is not the sum of its columns"
            )
        for chunk, column, leaf in zip(group["columns"], columns, leaves, strict=True):
            where = f"row group {index}, column '{column['path_in_schema'][-1].decode(errors='backslashreplace')}'"
            _require(column["type"] == leaf.get("type"), f"{where} has another type than the schema")
            _require(_get_start(column) == offset, f"{where} does not start where the one before ends")
            _require(column["total_compressed_size"] > 0, f"{where} has no bytes")
            _require(column["codec"] in CODECS, f"{where} has the codec {column['codec']}")
            offset += column["total_compressed_size"]
            _require(chunk["file_offset"] in (0, offset), f"{where} states a description elsewhere")
    _require(offset == footer_offset, f"its columns end at byte {offset}, its footer starts at byte {footer_offset}")
    num_rows = sum(group["num_rows"] for group in footer["row_groups"])
    _require(footer["num_rows"] == num_rows, f"it states {footer['num_rows']} rows, its row groups {num_rows}")


def _check_pages(payload: bytes, column: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    offset, num_plain_bytes = 0, 0
    data_pages: list[Mapping[str, Any]] = []
    kinds: Counter[tuple[int, int]] = Counter()
    while offset < len(payload):
        header, start = decode_struct(payload, offset, len(payload), PAGE_HEADER, "PageHeader")
        number = kinds.total()
        stop = start + header["compressed_page_size"]
        _require(start < stop <= len(payload), f"page {number} reaches beyond its column")
        body = memoryview(payload)[start:stop]
        _require("crc" in header, f"page {number} has no checksum")
        _require(header["crc"] & 0xFFFFFFFF == zlib.crc32(body), f"page {number} has another checksum than stated")
        plain = _decompress(body, header["uncompressed_page_size"], column["codec"], number)
        if header["type"] == DICTIONARY_PAGE:
            _require(number == 0 and "dictionary_page_offset" in column, f"page {number} is a dictionary")
            details = _check_dictionary(header, plain, column)
            _require(column["data_page_offset"] == _get_start(column) + stop, "data_page_offset is not behind it")
        else:
            details = _check_data_page(header, number)
            data_pages.append(details)
        kinds[header["type"], details["encoding"]] += 1
        num_plain_bytes += start - offset + header["uncompressed_page_size"]
        offset = stop
    stated_plain, stated_values = column["total_uncompressed_size"], column["num_values"]
    _require(
        num_plain_bytes == stated_plain, f"total_uncompressed_size is {stated_plain}, pages have {num_plain_bytes}"
    )
    num_values = sum(page["num_values"] for page in data_pages)
    _require(num_values == stated_values, f"num_values is {stated_values}, pages have {num_values}")
    _require((DICTIONARY_PAGE, PLAIN) in kinds or "dictionary_page_offset" not in column, "it lacks its dictionary")
    _check_encodings(column, kinds)
    return data_pages


def _decompress(body: memoryview, size: int, codec: int, number: int) -> bytes:
    _require(0 <= size <= MAX_PAGE_BYTES, f"page {number} is to have {size} bytes, limit {MAX_PAGE_BYTES}")
    name = CODECS[codec]
    try:
        plain = bytes(body) if name is None else pa.decompress(body, size, codec=name, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise ThriftError(f"page {number} cannot be decompressed: {error}") from error
    _require(len(plain) == size, f"page {number} has {len(plain)} bytes, its header states {size}")
    return plain


def _check_data_page(header: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    details = header.get("data_page_header")
    _require(
        header["type"] == DATA_PAGE and details is not None and "dictionary_page_header" not in header,
        f"page {number} has the type {header['type']}",
    )
    assert details is not None
    levels = (details["definition_level_encoding"], details["repetition_level_encoding"])
    _require(levels == (RLE, RLE), f"page {number} has the level encodings {levels}")
    return details


def _check_dictionary(header: Mapping[str, Any], plain: bytes, column: Mapping[str, Any]) -> Mapping[str, Any]:
    details = header.get("dictionary_page_header")
    _require(details is not None and "data_page_header" not in header, "its dictionary has no description")
    assert details is not None
    _require(not details.get("is_sorted"), "its dictionary claims to be sorted")
    if column["type"] == BYTE_ARRAY:
        num_found = sum(1 for _ in _split_byte_arrays(plain))
        _require(num_found == details["num_values"], f"its dictionary has {num_found} values and states another number")
    return details


def _split_byte_arrays(plain: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(plain):
        start = offset + 4
        offset = start + int.from_bytes(plain[offset:start], "little")
        _require(offset <= len(plain), "its dictionary ends within a value")
        yield plain[start:offset]


def _check_encodings(column: Mapping[str, Any], kinds: Mapping[tuple[int, int], int]) -> None:
    """Check that a column lists exactly the encodings of its pages."""
    for page_type, encoding in kinds:
        allowed = (PLAIN,) if page_type == DICTIONARY_PAGE else (PLAIN, RLE, RLE_DICTIONARY)
        _require(encoding in allowed, f"pages of type {page_type} have the encoding {encoding}")
    stated = {(item["page_type"], item["encoding"]): item["count"] for item in column.get("encoding_stats", [])}
    _require(not stated or stated == dict(kinds), "encoding_stats is not that of its pages")
    _require(len(stated) == len(column.get("encoding_stats", [])), "encoding_stats names an encoding twice")
    used = {encoding for _, encoding in kinds} | {RLE}
    _require(sorted(column["encodings"]) == sorted(used), "encodings are not those of its pages")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ThriftError(fault)
