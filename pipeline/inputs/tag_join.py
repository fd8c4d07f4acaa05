"""Samples with the tags of a table."""

import json
from dataclasses import replace

import pyarrow as pa

from pipeline.inputs.sample_tags import read_tag_cell, read_tag_value
from pipeline.inputs.tables.cells import read_text_cell
from pipeline.inputs.tags_table.sorted_file import TagsTable, describe_table_version, open_tags_table
from pipeline.inputs.tags_table.sources import Form
from pipeline.run.config import InputConfig
from pipeline.run.records import Sample


def settle_tags_table(config: InputConfig) -> InputConfig:
    """Give a configuration the version of its tags table, and check that the table can be used.

    Raises:
        ShardError: The table is missing, damaged, or has a key twice.
        StorageError: The store failed.
    """
    if config.tags_table is None:
        return config
    settled = replace(config, tags_table_etag=describe_table_version(config.tags_table))
    open_tags_table(settled)
    return settled


def join_tags(sample: Sample, config: InputConfig) -> Sample:
    """Give a sample the tags of the table of its run; a run without a table keeps the tags of the shard.

    The tags in the shard do not count beside a table. A key without a row has no tags.

    Raises:
        ShardError: The table is damaged, or changed since the run was started.
        StorageError: The store failed.
    """
    if config.tags_table is None:
        return sample
    return _join(replace(sample, no_tags_error=""), open_tags_table(config), config)


def _join(sample: Sample, table: TagsTable, config: InputConfig) -> Sample:
    cell: pa.Scalar | None = table.find(sample.key)
    if cell is None:
        return replace(sample, tags=(), class_numbers=(), tags_error="", has_tags_row=False)
    where = f"column '{config.tags_field}'"
    if table.form == Form.ARROW:
        found = read_tag_cell(config.tags_field, cell, config, table.labels)
    elif table.form == Form.JSON:
        found = read_tag_value(where, json.loads(cell.as_py() or "null"), config)
    else:
        found = read_tag_value(where, read_text_cell(cell.as_py()), config)
    return replace(sample, tags=found.tags, class_numbers=found.class_numbers, tags_error=found.error)
