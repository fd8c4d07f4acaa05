"""Labelling: data flow and assembly.

    shards -> chunks             inputs/chunks.py        read tar or Parquet from the first missing chunk
    chunk  -> images             images/decode.py        decode, turn upright, scale to a frame
    images -> class maps         images/mapping/         views -> model -> attention x patch CAM, refined, joined
    maps   -> masks, statistics  images/drawing/         thresholds, PNG, confidence; or a rejected row with its reason
    rows   -> part               commit/parts.py         one atomic put per chunk
    parts  -> manifest           commit/seal.py          one atomic put per shard, once all its chunks are committed
    counts -> the next wave      driver/waves.py         plan from listings, count, seal, watch, stop; no rows pass here

`labelling/label_actor.py` chains steps two to five in one actor, which holds the model on its device and commits each
chunk before it takes the next one. A crash loses at most the chunks in flight, and masks stay in their process.
Ray Data runs it all (`driver/ray_cluster.py`), or a few child processes for little work (`local_cluster/`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipeline.commit.plan import Plan, RetryOrder, ShardWork, plan_run
from pipeline.commit.retry import plan_retry, replace_manifest
from pipeline.commit.seal import Publish, seal_shard
from pipeline.driver.cluster import Cluster
from pipeline.driver.steps import Actors, Steps, import_late
from pipeline.driver.totals import RunSummary
from pipeline.driver.waves import Hooks, drive_run
from pipeline.images.class_texts import describe_classes
from pipeline.labelling.chunk_rows import CHUNK_SCHEMA, read_rows
from pipeline.run.config import CHUNKS_AT_ONCE
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import Run
from pipeline.workers.attempts import Attempts
from pipeline.workers.pulse import Reporting
from pipeline.workers.read_part import ReadPart

CALLS_PER_ACTOR = CHUNKS_AT_ONCE
"""Chunks in flight per actor: one is on the device while the other is decoded, encoded or committed."""


def label_run(
    run: Run,
    options: LabelOptions,
    *,
    retry: RetryOrder | None = None,
    limit: int | None = None,
    hooks: Hooks | None = None,
    cluster: Cluster | None = None,
) -> RunSummary:
    """Label all that remains of a run.

    Args:
        run: What is labelled.
        options: Execution settings.
        retry: Label again only the rejected rows of this order; None: label all that is not published.
        limit: Only the first shards; None: all.
        hooks: Watch and stop the run.
        cluster: Where the steps run; None: the Ray cluster that this process is connected to.

    Raises:
        WaveError: Several waves made no progress; what is committed stays.
        StorageError: The output cannot be listed.
    """
    steps = Steps(
        name="Shards",
        make_plan=lambda: plan_label_run(run, retry, limit),
        plan_read=partial(_plan_read, run),
        read_schema=CHUNK_SCHEMA,
        workers=Actors(
            find=partial(import_late, "pipeline.labelling.label_actor", "LabelChunks"),
            # Without the list of shards: Ray keeps the arguments of actors and sends them to each.
            arguments={"run": replace(run, shards=()), "options": options},
            num_actors=options.num_actors,
            calls_per_actor=CALLS_PER_ACTOR,
            num_cpus=options.cpus_per_actor,
            num_gpus=options.gpus_per_actor,
        ),
        publish=_choose_publish(run, options, retry),
    )
    return drive_run(steps, options, run.out_uri, hooks, cluster)


def plan_label_run(run: Run, retry: RetryOrder | None = None, limit: int | None = None) -> Plan:
    """List what remains of a run, or of a retry."""
    return plan_run(run, limit) if retry is None else plan_retry(run, retry, limit)


def _plan_read(run: Run, work: Sequence[ShardWork], reporting: Reporting, attempts: Attempts) -> ReadPart:
    num_bytes = sum(item.shard.size_bytes for item in work)
    return ReadPart(partial(read_rows, tuple(work), run.config.inputs, reporting, attempts), num_bytes)


def _choose_publish(run: Run, options: LabelOptions, retry: RetryOrder | None) -> Publish:
    if retry is not None:
        return partial(replace_manifest, out_uri=run.out_uri, fingerprint=run.fingerprint, order=retry)
    texts, limit = describe_classes(run.vocabulary), options.max_rejected_fraction
    seal = partial(seal_shard, out_uri=run.out_uri, fingerprint=run.fingerprint, class_texts=texts)
    return partial(seal, max_rejected_fraction=limit)
