"""How the rows of a tags table and the samples of a run met."""

from pipeline.run.counts import LabelCounts
from pipeline.run.records import Reason

REPEATED = (Reason.DUPLICATE_KEY, Reason.SPLIT_SAMPLE)
"""Reasons of rows whose key another row has."""


def print_unmatched(num_table_rows: int, counts: LabelCounts) -> None:
    """Print how many samples have no row in the table, and how many rows of the table have no sample.

    Samples without an image are not looked up, and count as if they had a row.

    Args:
        num_table_rows: Rows of the table; each has another key.
        counts: Of all shards of the run.
    """
    num_without_row = counts.rejected_by_reason.get(Reason.NOT_IN_TAGS_TABLE, 0)
    num_repeated = sum(counts.rejected_by_reason.get(reason, 0) for reason in REPEATED)
    num_matched = counts.num_read - num_without_row - num_repeated
    print(
        f"tags table: {num_table_rows} rows, of which {max(num_table_rows - num_matched, 0)} or more match no sample; "
        f"{num_without_row} samples have no row"
    )
