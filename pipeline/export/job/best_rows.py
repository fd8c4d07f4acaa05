"""The better rows by quality within each set of classes, found in one pass over two small columns.

One limit for all rows removes the rows of hard classes first, and a network that is trained on the rest never learns
them (docs/measurements.md).
"""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

from pipeline.export.job.selection import Selection, merge_levels, to_level
from pipeline.published.overrides import Overrides
from pipeline.published.rows import iterate_rows
from pipeline.published.run import PublishedRun

NUM_THREADS = 8

Counts = dict[tuple[int, ...], Counter[int]]


def find_levels(run: PublishedRun, fraction: float, overrides: Overrides | None = None) -> dict[tuple[int, ...], int]:
    """Find the level of quality that keeps a share of the labelled rows of each set of classes.

    Rows of the level itself are kept, so that more than the share may remain.

    Args:
        run: All published shards are read.
        fraction: Share of rows, above 0 and at most 1.
        overrides: Corrected masks, which count as the best ones of their classes.

    Raises:
        ManifestError: A manifest is damaged or of another run.
    """
    total: Counts = defaultdict(Counter)
    selection = Selection(overrides=overrides)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for counts in threads.map(lambda uri: _count_levels(run, uri, selection), run.manifest_uris):
            for ids, levels in counts.items():
                total[ids].update(levels)
    return merge_levels(total, fraction)


def _count_levels(run: PublishedRun, manifest_uri: str, selection: Selection) -> Counts:
    counts: Counts = defaultdict(Counter)
    for row in map(selection.correct, iterate_rows(run, manifest_uri, columns=selection.columns)):
        if row.is_labelled:
            counts[tuple(sorted(row.get("class_ids") or ()))][to_level(row.quality)] += 1
    return counts
