"""Columns in the path of a file, as Hive, Spark and pyarrow write them: `data/split=train/label=cat/part-0.parquet`."""

from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ColumnError
from pipeline.storage.uris import list_schemes

NULL_VALUE = "__HIVE_DEFAULT_PARTITION__"
WEB_SCHEMES = frozenset({"http", "https"})


class Partitions:
    """Columns that the folders of one file give to all of its rows."""

    def __init__(self, uri: str, own_schema: pa.Schema) -> None:
        """Read the columns of a path.

        Args:
            uri: The file.
            own_schema: Its own columns. One that the path names as well must have the same values.
        """
        self._uri = uri
        self._values: dict[str, list[str | None]] = {}
        for name, value in list_partitions(uri):
            values = self._values.setdefault(name, [])
            if value not in values:
                values.append(value)
        self._own = own_schema
        self.schema = own_schema
        """Columns of the file, then those of its path."""
        for name in self._values:
            if name not in own_schema.names:
                self.schema = self.schema.append(pa.field(name, pa.string()))

    def __contains__(self, name: object) -> bool:
        return name in self._values and name not in self._own.names

    def select_own(self, names: list[str]) -> list[str]:
        """Those of some columns that the file itself holds."""
        return [name for name in names if name not in self]

    def complete(self, batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
        """Give a batch those of some columns that the path holds.

        Raises:
            ColumnError: Path and file disagree on a column, or the path names it twice.
        """
        for name in names:
            if name not in self._values:
                continue
            if len(self._values[name]) > 1:
                raise ColumnError(
                    f"'{self._uri}': its path gives column '{name}' {len(self._values[name])} values; rename one folder"
                )
            if name in self:
                value = pa.scalar(self._values[name][0], pa.string())
                batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
            else:
                self._require_equal(name, batch.column(name))
        return batch

    def _require_equal(self, name: str, cells: pa.Array) -> None:
        """Check a column of the file against the path: some writers keep the column in the file."""
        wanted = self._values[name][0]
        kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
        found: list[str | None] = [f"a {kind}"]
        if not pa.types.is_nested(kind):
            found = pc.unique(cells.cast(kind).cast(pa.string())).to_pylist()
        if other := [value for value in found if value != wanted]:
            raise ColumnError(
                f"'{self._uri}': column '{name}' holds {_show(other[0])} in the file and {_show(wanted)} in its path; "
                "rename the column or the folder"
            )


def list_partitions(uri: str) -> Iterator[tuple[str, str | None]]:
    """List the names and values in the folders of a file, from the top; the null partition is None.

    >>> list(list_partitions("s3://bucket/data/split=train/label=hot%20dog/part-0.parquet"))
    [('split', 'train'), ('label', 'hot dog')]
    """
    is_web = not WEB_SCHEMES.isdisjoint(list_schemes(uri))
    path = uri.partition("?")[0] if is_web else uri
    for folder in path.split("/")[:-1]:
        name, separator, value = (unquote(folder) if is_web else folder).partition("=")
        if separator and name:
            yield unquote(name), None if value == NULL_VALUE else unquote(value)


def _show(value: str | None) -> str:
    return "null" if value is None else f"'{value}'"
