"""Columns of a table by their role: path, tags, key."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.errors import ShardError
from pipeline.inputs.parquet_reader import KEY_COLUMNS, MAX_COLUMNS_SHOWN, TAGS_COLUMNS
from pipeline.run.config import InputConfig

PATH_COLUMNS = ("file_name", "path", "image", "image_path", "filepath", "filename", "url")
"""Columns searched for paths, without regard to case; the first is Hugging Face's."""
IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif)$", re.IGNORECASE)
"""End of a cell of paths, found where the names of columns are missing."""


class Columns(NamedTuple):
    """Names of columns."""

    path: str
    tags: str | None
    """None if a table beside the images holds the tags."""
    key: str | None


def find_path_column(names: Sequence[str], config: InputConfig) -> str | None:
    """Name of the column of paths; None if there is none."""
    if config.image_column is not None:
        return config.image_column if config.image_column in names else None
    folded = {name.strip().casefold(): name for name in reversed(names)}
    return next((folded[name] for name in PATH_COLUMNS if name in folded), None)


def choose_columns(table: str, names: Sequence[str], config: InputConfig) -> Columns:
    """Choose columns by their names.

    Raises:
        ShardError: One is missing, or there are two of its name.
    """
    there = ", ".join(f"'{name}'" for name in names[:MAX_COLUMNS_SHOWN]) or "none"
    path = find_path_column(names, config)
    if path is None:
        wanted = f"'{config.image_column}'" if config.image_column else "of paths (file_name, path, image, url ...)"
        if any(IMAGE_NAME.search(name) for name in names):
            raise ShardError(
                f"table '{table}' has no column {wanted}, and its first line looks like a row: {there}; write its "
                "column names there, such as file_name and tags"
            )
        raise ShardError(
            f"table '{table}' has no column {wanted}; name one of its columns by --inputs.image-column: {there}"
        )
    tags_names = TAGS_COLUMNS if config.tags_field == TAGS_COLUMNS[0] else (config.tags_field,)
    tags = next((name for name in tags_names if name in names), None)
    if tags is None and config.tags_table is None:
        raise ShardError(
            f"table '{table}' has no column '{config.tags_field}'; "
            f"name the column of tags by --inputs.tags-field: {there}"
        )
    if config.key_column is not None and config.key_column not in names:
        raise ShardError(
            f"table '{table}' has no column '{config.key_column}'; "
            f"name one of its columns by --inputs.key-column: {there}"
        )
    key = config.key_column or next((name for name in KEY_COLUMNS if name in names), None)
    for name in filter(None, (path, tags, key)):
        if names.count(name) > 1:
            raise ShardError(f"table '{table}' has several columns '{name}'; rename all but one")
    return Columns(path, tags, key)
