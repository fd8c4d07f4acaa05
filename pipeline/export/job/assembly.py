"""Exports: data flow and assembly.

manifest -> rows             published/       row groups of a published shard, in order
rows     -> taken rows       selection        quality, classes, keys; the others are counted by filter
rows     -> samples          shard_samples    images by range; both upright
samples  -> files            export/formats/  one task a shard
counts   -> commit           records          one atomic put a shard
entries  -> joint files      export/formats/  in this process, once all shards are committed
"""

from dataclasses import dataclass
from functools import partial

from pipeline.driver.cluster import Cluster
from pipeline.driver.steps import Steps, Tasks, import_late
from pipeline.driver.totals import RunSummary
from pipeline.driver.waves import Hooks, drive_run
from pipeline.export.job.finish import finish_export
from pipeline.export.job.identity import Export
from pipeline.export.job.records import ShardCounts, list_items, plan_export
from pipeline.export.job.shard_task import ITEM_SCHEMA, plan_shards, publish_export
from pipeline.run.options import DriverOptions

EXPORT_CPUS = 1.0


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What an invocation did."""

    run: RunSummary
    counts: ShardCounts | None
    """Counts of the whole export; None if it is not complete."""


def export_run(
    export: Export,
    options: DriverOptions | None = None,
    *,
    limit: int | None = None,
    hooks: Hooks | None = None,
    cluster: Cluster | None = None,
) -> ExportSummary:
    """Export what remains of the published shards, then write the joint files.

    Args:
        export: From `identity.claim_folder`.
        options: Timeouts of the driver; None: the defaults.
        limit: Only the first shards; None: all.
        hooks: How the caller watches and stops the export.
        cluster: Where the steps run; None: the Ray cluster that this process is connected to.

    Raises:
        NothingExportedError: No row was exported.
        WaveError: Several waves made no progress; what is committed stays.
        StorageError: The output cannot be listed.
    """
    items = list_items(export)[:limit]
    by_name = {item.shard.name: item for item in items}
    steps = Steps(
        name="Export",
        make_plan=lambda: plan_export(export, limit),
        plan_read=partial(plan_shards, by_name),
        read_schema=ITEM_SCHEMA,
        workers=Tasks(
            find=partial(import_late, "pipeline.export.job.shard_task", "export_row"),
            arguments={"export": export.for_workers()},
            num_cpus=EXPORT_CPUS,
        ),
        publish=partial(publish_export, out_uri=export.out_uri, items=by_name),
    )
    summary = drive_run(steps, options or DriverOptions(), export.out_uri, hooks, cluster)
    is_complete = not summary.was_stopped and not summary.num_shards_left
    return ExportSummary(run=summary, counts=finish_export(export, items) if is_complete else None)
