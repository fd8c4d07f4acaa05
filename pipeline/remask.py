"""New masks from kept maps: data flow and assembly.

    manifest -> chunks            kept_maps/   row groups of a published shard, from the first missing one
    chunk    -> maps (and images) kept_maps/   kept maps; also images where pixels refine the maps
    maps     -> masks, statistics images/      other thresholds and scales; no model, no GPU
    rows     -> part              commit/      one atomic put per chunk
    parts    -> manifest          commit/      one atomic put per shard
    counts   -> the next wave     driver/      the driver of labelling

Thresholds determine masks and statistics. Columns that depend on the model alone (presence, raw_peak, view_agreement,
head_agreement, suggested_class_ids) and rejected rows do not change.
"""

from dataclasses import replace
from functools import partial

from pipeline.commit.plan import plan_run
from pipeline.commit.seal import seal_shard
from pipeline.driver.cluster import Cluster
from pipeline.driver.steps import Steps, Tasks, import_late
from pipeline.driver.totals import RunSummary
from pipeline.driver.waves import Hooks, drive_run
from pipeline.images.class_texts import describe_classes
from pipeline.kept_maps.chunk_rows import KEPT_SCHEMA, plan_kept_read
from pipeline.kept_maps.kept_run import require_source
from pipeline.run.options import DriverOptions
from pipeline.run.run_file import Run

REMASK_CPUS = 1.0


def remask_run(
    run: Run,
    options: DriverOptions | None = None,
    *,
    limit: int | None = None,
    hooks: Hooks | None = None,
    cluster: Cluster | None = None,
) -> RunSummary:
    """Make all masks that remain of a run from kept maps.

    Args:
        run: From `kept_maps.new_run.open_remask`.
        options: Timeouts of the driver; None: the defaults.
        limit: Only the first shards; None: all.
        hooks: How the caller watches and stops the run.
        cluster: Where the steps run; None: the Ray cluster that this process is connected to.

    Raises:
        ValueError: The run makes its masks from images.
        WaveError: Several waves made no progress; what is committed stays.
        StorageError: The output cannot be listed.
    """
    steps = Steps(
        name="KeptMaps",
        make_plan=lambda: plan_run(run, limit),
        plan_read=partial(plan_kept_read, run),
        read_schema=KEPT_SCHEMA,
        workers=Tasks(
            find=partial(import_late, "pipeline.kept_maps.remask_task", "remask_row"),
            # Without lists of shards and manifests: each task gets a copy.
            arguments={"run": replace(run, shards=(), source=replace(require_source(run), manifests=()))},
            num_cpus=REMASK_CPUS,
        ),
        # The limit on rejected rows was checked when the shards were labelled.
        publish=partial(
            seal_shard,
            out_uri=run.out_uri,
            fingerprint=run.fingerprint,
            max_rejected_fraction=1.0,
            class_texts=describe_classes(run.vocabulary),
        ),
    )
    return drive_run(steps, options or DriverOptions(), run.out_uri, hooks, cluster)
