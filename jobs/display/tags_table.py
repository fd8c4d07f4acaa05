"""How the rows of a tags table and the samples of a run met."""

import pyarrow as pa

from pipeline.commit.manifests import stream_manifest
from pipeline.commit.names import locate_manifest
from pipeline.commit.outcome import read_outcomes
from pipeline.inputs.tags_table.sorted_file import open_tags_table
from pipeline.run.records import Reason
from pipeline.run.run_file import Run

REPEATED = (Reason.DUPLICATE_KEY, Reason.SPLIT_SAMPLE)
"""Reasons of rows whose key another row has."""
MAX_KEYS = 5_000_000
"""Samples of a run whose keys are compared one by one; they are in memory."""


def print_unmatched(run: Run, max_keys: int = MAX_KEYS) -> None:
    """Print how many samples have no row in the table, and how many rows of the table have no sample.

    Of very large runs the numbers are bounds: keys that repeat, and samples without an image, are not compared.

    Args:
        run: All of its shards are published.
        max_keys: Samples of a run of which all keys are compared.

    Raises:
        OSError: The store failed.
    """
    table = open_tags_table(run.config.inputs)
    names = [shard.name for shard in run.shards]
    counts = read_outcomes(run.out_uri, names).counts
    more = ""
    if counts.num_read <= max_keys:
        num_matched, num_with_row = table.count_matches(_read_keys(run.out_uri, names))
        num_without_row = counts.num_read - num_with_row
    else:
        more = " or more"
        num_without_row = counts.rejected_by_reason.get(Reason.NOT_IN_TAGS_TABLE, 0)
        num_repeated = sum(counts.rejected_by_reason.get(reason, 0) for reason in REPEATED)
        num_matched = counts.num_read - num_without_row - num_repeated
    print(
        f"tags table: {table.num_rows} rows, of which {max(table.num_rows - num_matched, 0)}{more} match no sample; "
        f"{num_without_row}{more} samples have no row"
    )


def _read_keys(out_uri: str, shard_names: list[str]) -> pa.ChunkedArray:
    keys: list[pa.Array] = []
    for name in shard_names:
        with stream_manifest(locate_manifest(out_uri, name)) as manifest:
            keys += [batch["key"] for batch in manifest.file.iter_batches(columns=["key"])]
    return pa.chunked_array(keys, pa.string()).cast(pa.large_string())
