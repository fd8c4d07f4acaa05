"""Rows of a Parquet file as an audit counts them: keys in order and digests of images."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.audit.archives.samples import ImagePlace, WalkedImage, WalkedSample
from pipeline.audit.archives.tar_walk import WalkEnd
from pipeline.audit.parquet.row_groups import count_group_rows
from pipeline.storage.reading import ByteStream

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
KEY_COLUMNS = ("key", "__key__")
BATCH_ROWS = 16
BUFFER_BYTES = 8 * 2**20


def walk_parquet(
    uri: str, stream: ByteStream, inputs: Mapping[str, Any], wants_image: Callable[[str], bool] | None
) -> Iterator[WalkedSample | WalkEnd]:
    """Walk through the rows of a Parquet file.

    Args:
        uri: Of the file; its folders may hold the key, as in `id=7/part-0.parquet`.
        stream: Of the file.
        inputs: Configuration of the inputs, with names of columns or None.
        wants_image: True for the keys of rows whose images are read; None: no image is read.

    Raises:
        ValueError: It lacks these columns. For a damaged file Arrow raises its own exceptions.
    """
    num_rows = count_group_rows(stream)
    file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    image_name, key_name = _choose_columns(file.schema_arrow, inputs)
    folder_key = None
    if key_name is not None and key_name not in file.schema_arrow.names:
        folder_key, key_name = _find_folder_key(uri, key_name), None
    columns = [name for name in (image_name if wants_image else None, key_name) if name is not None]
    row = 0
    # Without a column to read, the footer counts the rows.
    for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False) if columns else ():
        for place in range(batch.num_rows):
            given = _read_text(batch.column(key_name)[place]) if key_name else folder_key
            sample = WalkedSample(key=given or f"{row:09d}", offset=row)
            sample.has_image = True
            sample.place = ImagePlace(offset=row)
            if wants_image is not None and wants_image(sample.key):
                sample.image = _read_image(batch.column(image_name), place)
                sample.has_image = sample.image is not None
                sample.place = ImagePlace(offset=row, num_bytes=len(sample.image.head)) if sample.image else None
            yield sample
            row += 1
    if not columns:
        for row in range(num_rows):
            sample = WalkedSample(key=folder_key or f"{row:09d}", offset=row, has_image=True)
            sample.place = ImagePlace(offset=row)
            yield sample
    elif row != num_rows:
        raise ValueError(f"it ends at row {row}, the row groups of its footer have {num_rows}")
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
    if pa.types.is_decimal(kind):
        return bool(kind.scale == 0)
    return str(kind) in ("string", "large_string", "string_view", "null") or pa.types.is_integer(kind)


def _find_folder_key(uri: str, name: str) -> str | None:
    """Key that a folder of the path names; None if it is null.

    Raises:
        ValueError: No folder does.
    """
    is_web = uri.lower().startswith(("http://", "https://"))
    for part in reversed(uri.split("/")[:-1]):
        found, is_one, value = (unquote(part) if is_web else part).partition("=")
        if is_one and unquote(found) == name:
            return None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
    raise ValueError(f"it has no column '{name}'")


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
