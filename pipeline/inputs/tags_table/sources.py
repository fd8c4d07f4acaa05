"""Tables of keys and tags as files: CSV, TSV, JSONL or Parquet, streamed in batches of two columns.

The types of Parquet columns stay, so that a value means the same as in a shard. Cells of CSV are text.
"""

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from pipeline.errors import ShardError, is_store_failure
from pipeline.storage.listing import StoredObject, find_object
from pipeline.storage.reading import ByteStream, open_random, open_stream

KEY_COLUMNS = ("key", "__key__")
BLOCK_BYTES = 8 * 2**20
BATCH_ROWS = 65_536
MAX_COLUMNS_SHOWN = 20
DELIMITERS = (",", "\t", ";", "|")

OPTION = "--inputs.tags-table"


def look_up_table(uri: str) -> StoredObject:
    """Look up a table.

    Raises:
        ShardError: It does not exist, or its name has no known suffix.
    """
    _choose_reader(uri)
    found = find_object(uri)
    if found is None:
        raise ShardError(f"tags table '{uri}' does not exist; check the path of {OPTION}")
    return found


def read_table(uri: str, key_column: str | None, tags_column: str) -> Iterator[pa.RecordBatch]:
    """Read a table as batches of the columns `key` and `tags`, in the order of the file.

    Keys are text; rows without a key are refused.

    Args:
        uri: Of a file `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet`.
        key_column: Column of the keys; None: `key` or `__key__`.
        tags_column: Column of the tags.

    Raises:
        ShardError: The file is damaged, or a column is missing or of a wrong type.
        StorageError: The store failed.
    """
    reader = _choose_reader(uri)
    first_row = 0
    with _explain(uri):
        for batch in reader(uri, key_column, tags_column):
            yield pa.record_batch([_read_keys(uri, batch.column(0), first_row), batch.column(1)], ["key", "tags"])
            first_row += batch.num_rows


_Reader = Callable[[str, str | None, str], Iterator[pa.RecordBatch]]


def _choose_reader(uri: str) -> _Reader:
    suffix = uri.rpartition(".")[2].lower()
    readers: dict[str, _Reader] = {
        **{"csv": _read_csv, "tsv": _read_csv, "txt": _read_csv},
        **{"jsonl": _read_jsonl, "ndjson": _read_jsonl, "parquet": _read_parquet, "pq": _read_parquet},
    }
    if suffix not in readers:
        raise ShardError(f"tags table '{uri}' is of an unknown kind; need .csv, .tsv, .jsonl or .parquet ({OPTION})")
    return readers[suffix]


@contextmanager
def _explain(uri: str) -> Iterator[None]:
    """Turn errors of a table's content, but not of the store, into a `ShardError`."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if is_store_failure(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ShardError(f"tags table '{uri}' cannot be read: {reason}; correct it") from error


def _read_csv(uri: str, key_column: str | None, tags_column: str) -> Iterator[pa.RecordBatch]:
    with closing(open_stream(uri)) as stream:
        head = _read_head(uri, stream)
        delimiter = max(DELIMITERS, key=head.count)
        names = next(iter(_parse_header(head, delimiter)))
        columns = [_choose_key(uri, names, key_column), _require(uri, names, tags_column)]
        stream.seek(0)
        batches = pa_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            pa_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pa_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=True,
            ),
        )
        yield from batches


def _read_head(uri: str, stream: ByteStream) -> str:
    """The header line of a CSV file."""
    payload = stream.read(2**20)
    if payload.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ShardError(f"tags table '{uri}' is UTF-16; save it as UTF-8")
    line = payload.partition(b"\n")[0].rstrip(b"\r")
    if not line.strip():
        raise ShardError(f"tags table '{uri}' has no header line; need the names of its columns in the first line")
    return line.decode("utf-8-sig")


def _parse_header(head: str, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(head), delimiter=delimiter)


def _read_jsonl(uri: str, key_column: str | None, tags_column: str) -> Iterator[pa.RecordBatch]:
    with closing(open_stream(uri)) as stream:
        batches = pa_json.open_json(
            pa.PythonFile(stream, mode="r"), pa_json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
        )
        names = batches.schema.names
        columns = [_choose_key(uri, names, key_column), _require(uri, names, tags_column)]
        for batch in batches:
            yield batch.select(columns)


def _read_parquet(uri: str, key_column: str | None, tags_column: str) -> Iterator[pa.RecordBatch]:
    with closing(open_random(uri)) as stream:
        file = pq.ParquetFile(stream, buffer_size=BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True)
        names = file.schema_arrow.names
        columns = [_choose_key(uri, names, key_column), _require(uri, names, tags_column)]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            yield batch.select(columns)


def _choose_key(uri: str, names: list[str], key_column: str | None) -> str:
    if key_column is not None:
        return _require(uri, names, key_column)
    found = next((name for name in KEY_COLUMNS if name in names), None)
    if found is None:
        raise ShardError(
            f"tags table '{uri}' has no column 'key' or '__key__'; name one of its columns by --inputs.tags-table-key: "
            f"{_list_names(names)}"
        )
    return found


def _require(uri: str, names: list[str], column: str) -> str:
    if names.count(column) != 1:
        fault = "has no column" if column not in names else "has several columns"
        raise ShardError(f"tags table '{uri}' {fault} '{column}'; its columns: {_list_names(names)}")
    return column


def _list_names(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:MAX_COLUMNS_SHOWN]) or "none"


def _read_keys(uri: str, keys: pa.Array, first_row: int) -> pa.Array:
    """Keys as text."""
    kind: Any = keys.type.value_type if pa.types.is_dictionary(keys.type) else keys.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text and not pa.types.is_integer(kind):
        raise ShardError(f"tags table '{uri}' has keys of the type {kind}, need text or whole numbers")
    if keys.null_count:
        row = first_row + pc.index(pc.is_null(keys), True).as_py()
        raise ShardError(f"tags table '{uri}' has no key in row {row}; add it or remove the row")
    return keys.cast(kind).cast(pa.large_string())
