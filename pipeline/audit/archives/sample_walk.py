"""Samples of an input shard as an audit counts them: keys in order, offsets, and digests of images.

No code is shared with the readers of labelling; the rule which members are samples is written twice. Images are read
piece by piece, so no member has to fit into memory.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage.reading import ByteStream

BLOCK_BYTES = 512
PIECE_BYTES = 2**20
MAX_HEAD_BYTES = 16 * 2**20
"""Bytes kept of an image to measure its size; nearly all images are smaller."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
TAG_SUFFIXES = ("json", "txt", "cls")
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
KEY_COLUMNS = ("key", "__key__")
BATCH_ROWS = 16
BUFFER_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class WalkedImage:
    """Image of a sample."""

    sha256: str
    head: bytes
    """Its first bytes, at most `MAX_HEAD_BYTES`."""
    is_whole: bool
    """True if `head` is the whole image."""


@dataclass(kw_only=True)
class WalkedSample:
    """One sample of a shard."""

    key: str
    offset: int
    """Start of the sample: bytes of a tar, rows of a Parquet file."""
    has_image: bool = False
    """True also if images are not read."""
    has_tags: bool = False
    image: WalkedImage | None = None
    """None if there is none, or if it was not wanted."""


@dataclass(frozen=True, kw_only=True)
class WalkEnd:
    """End of a shard."""

    offset: int
    """End of the last whole sample."""
    truncated_at: int | None


class _BrokenError(Exception):
    def __init__(self, offset: int, *, is_inside_sample: bool) -> None:
        super().__init__(f"the archive is broken at byte {offset}")
        self.offset = offset
        self.is_inside_sample = is_inside_sample


class _Watched:
    """Stream that records whether a read reached its end."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.is_at_end = False

    def read(self, size: int = -1) -> bytes:
        pieces = []
        missing = size
        while missing > 0 and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        self.is_at_end = missing > 0
        return b"".join(pieces)

    def seek(self, offset: int) -> None:
        self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()


def walk_tar(stream: ByteStream, wants_image: Callable[[str], bool]) -> Iterator[WalkedSample | WalkEnd]:
    """Walk through a tar archive and the archives appended to it.

    Args:
        stream: Of the archive.
        wants_image: True for the keys of samples whose images are read.

    Raises:
        tarfile.TarError: It is not a tar archive. For a hostile archive `tarfile` may raise other exceptions.
    """
    num_bytes = stream.seek(0, 2)
    watched = _Watched(stream)
    sample: WalkedSample | None = None
    try:
        members = _list_members(watched, num_bytes)
        while isinstance(member := next(members), tarfile.TarInfo):
            names = _split_name(member.name) if member.isreg() and not member.issparse() else None
            if names is None:
                continue
            key, suffix = names
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = WalkedSample(key=key, offset=member.offset)
            _add_member(watched, member, suffix, sample, wants_image)
        end = WalkEnd(offset=member, truncated_at=None)
    except _BrokenError as error:
        end = WalkEnd(offset=error.offset, truncated_at=error.offset)
        # The last sample may be incomplete, unless it has an image and tags.
        if sample is not None and (error.is_inside_sample or not sample.has_image or not sample.has_tags):
            end, sample = WalkEnd(offset=sample.offset, truncated_at=error.offset), None
    if sample is not None:
        yield sample
    yield end


def _split_name(name: str) -> tuple[str, str] | None:
    """Split the name of a member into key and suffix, at the first dot after its last slash."""
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    is_sample = dot > start and dot + 1 < len(name) and not (name[start:].startswith("__") and name.endswith("__"))
    return (name[:dot], name[dot + 1 :].lower()) if is_sample else None


def _add_member(
    stream: _Watched, member: tarfile.TarInfo, suffix: str, sample: WalkedSample, wants_image: Callable[[str], bool]
) -> None:
    if suffix in TAG_SUFFIXES:
        sample.has_tags = True
    if suffix not in IMAGE_SUFFIXES or sample.has_image:
        return
    sample.has_image = True
    if not wants_image(sample.key):
        return
    stream.seek(member.offset_data)
    digest, head, missing = hashlib.sha256(), bytearray(), member.size
    while missing > 0:
        piece = stream.read(min(missing, PIECE_BYTES))
        if not piece:
            raise _BrokenError(stream.tell(), is_inside_sample=True)
        digest.update(piece)
        head += piece[: MAX_HEAD_BYTES - len(head)]
        missing -= len(piece)
    sample.image = WalkedImage(sha256=digest.hexdigest(), head=bytes(head), is_whole=len(head) == member.size)


def _list_members(stream: _Watched, num_bytes: int) -> Iterator[tarfile.TarInfo | int]:
    """Yield the members of an archive, then the offset of its end marks.

    Raises:
        _BrokenError: The archive is damaged or truncated.
    """
    start = 0
    while True:
        archive = _open_archive(stream, start, num_bytes)
        member = archive.firstmember  # type: ignore[attr-defined]
        archive.firstmember = None  # type: ignore[attr-defined]
        while member is not None:
            # `tarfile` keeps all members, of which a shard may have a million.
            archive.members = []  # type: ignore[attr-defined]
            yield member
            here = archive.offset
            if here <= member.offset:
                raise _BrokenError(member.offset, is_inside_sample=False)
            try:
                member = archive.next()
            except (tarfile.TarError, ValueError, OverflowError) as error:
                at_end = stream.is_at_end
                raise _BrokenError(num_bytes if at_end else here, is_inside_sample=at_end) from error
        end = archive.offset
        start = _find_next_archive(stream, end, num_bytes)
        if start == num_bytes:
            yield end
            return


def _open_archive(stream: _Watched, start: int, num_bytes: int) -> tarfile.TarFile:
    """Open the archive at an offset and read its first member.

    Raises:
        _BrokenError: Its first header is intact, and what follows is not.
    """
    stream.seek(start)
    block = stream.read(BLOCK_BYTES)
    stream.seek(start)
    try:
        return tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="backslashreplace")  # type: ignore[arg-type]
    except (tarfile.TarError, ValueError, OverflowError) as error:
        at_end = stream.is_at_end
        if block != bytes(BLOCK_BYTES):
            # Raises if it is not a header: then this is not an archive.
            tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        raise _BrokenError(num_bytes if at_end else start, is_inside_sample=at_end) from error


def _find_next_archive(stream: _Watched, end: int, num_bytes: int) -> int:
    """Start of the next archive after the end marks; the end of the stream if there is none."""
    stream.seek(end)
    block = stream.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise _BrokenError(num_bytes, is_inside_sample=False)
    offset = end
    while block and not block.strip(b"\0"):
        offset += len(block)
        block = stream.read(BLOCK_BYTES)
    if not block:
        return num_bytes
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise _BrokenError(end, is_inside_sample=False) from error
    if offset == end:
        # It is a header of this archive, which `tarfile` refused.
        raise _BrokenError(end, is_inside_sample=False)
    return offset


def walk_parquet(
    stream: ByteStream, inputs: Mapping[str, Any], wants_image: Callable[[str], bool] | None
) -> Iterator[WalkedSample | WalkEnd]:
    """Walk through the rows of a Parquet file.

    Args:
        stream: Of the file.
        inputs: Configuration of the inputs, with names of columns or None.
        wants_image: True for the keys of rows whose images are read; None: no image is read.

    Raises:
        ValueError: It lacks these columns. For a damaged file Arrow raises its own exceptions.
    """
    file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    image_name, key_name = _choose_columns(file.schema_arrow, inputs)
    columns = [name for name in (image_name if wants_image else None, key_name) if name is not None]
    row = 0
    # Without a column to read, the footer counts the rows.
    for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False) if columns else ():
        for place in range(batch.num_rows):
            given = _read_text(batch.column(key_name)[place]) if key_name else None
            sample = WalkedSample(key=given or f"{row:09d}", offset=row)
            sample.has_image = True
            if wants_image is not None and wants_image(sample.key):
                sample.image = _read_image(batch.column(image_name), place)
                sample.has_image = sample.image is not None
            yield sample
            row += 1
    num_rows = file.metadata.num_rows
    if not columns:
        yield from (WalkedSample(key=f"{row:09d}", offset=row, has_image=True) for row in range(num_rows))
    elif row != num_rows:
        raise ValueError(f"it ends at row {row}, its footer promises {num_rows}")
    yield WalkEnd(offset=num_rows, truncated_at=None)


def _choose_columns(schema: pa.Schema, inputs: Mapping[str, Any]) -> tuple[str, str | None]:
    images = [inputs["image_column"]] if inputs.get("image_column") else IMAGE_COLUMNS
    image = next((name for name in images if name in schema.names), None)
    if image is None:
        raise ValueError(f"it has none of the columns {list(images)}")
    if inputs.get("key_column"):
        return image, inputs["key_column"]
    fitting = (name for name in KEY_COLUMNS if schema.names.count(name) == 1 and _holds_key(schema.field(name).type))
    return image, next(fitting, None)


def _holds_key(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view", "null") or pa.types.is_integer(kind)


def _read_text(cell: pa.Scalar) -> str | None:
    try:
        value = cell.as_py()
    except UnicodeDecodeError:
        return None
    return None if value is None else str(value)


def _read_image(images: pa.Array, place: int) -> WalkedImage | None:
    cell = images.slice(place, 1)
    payload = (pc.struct_field(cell, "bytes") if pa.types.is_struct(cell.type) else cell)[0].as_py()
    if payload is None:
        return None
    return WalkedImage(sha256=hashlib.sha256(payload).hexdigest(), head=payload, is_whole=True)
