"""Label tagged image shards: check the inputs, show what remains, and drive the run."""

import os
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from jobs.arguments.label import LabelJob
from jobs.cluster.choice import check_cluster, make_local_cluster, share_cpus, uses_ray
from jobs.cluster.driving import (
    MAX_FOOTERS,
    conclude_published,
    drive,
    print_next,
    print_warning,
    read_published,
    suggest_export,
)
from jobs.cluster.settings import find_address, use_endpoint
from jobs.command_line.console import EXIT_OK, format_bytes, print_config
from jobs.display.extension import print_extension
from jobs.display.streams import use_log_format
from jobs.display.tags_table import print_unmatched
from jobs.execution.inputs import find_shards, open_listed_run
from jobs.execution.retry import check_retry, open_ordered
from jobs.qualities import QUALITIES
from pipeline.bundles import describe_bundle, load_bundle, require_same_classes
from pipeline.commit.plan import Plan, RetryOrder
from pipeline.driver.cluster import Cluster
from pipeline.driver.silence import WaitNotices
from pipeline.errors import LabellingError
from pipeline.inputs.tag_join import settle_tags_table
from pipeline.label import label_run, plan_label_run
from pipeline.labelling.estimate import estimate_rest
from pipeline.run.class_names import settle_inputs
from pipeline.run.config import LabelConfig, MapKind, settle_config
from pipeline.run.options import LabelOptions
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import Vocabulary, load_vocabulary
from pipeline.storage.outage import Patience
from pipeline.thresholds.calibration import MASK_FIELDS, describe_maps, use_calibration


def label(job: LabelJob) -> int:
    """Label and return the exit code."""
    use_log_format(job.log.log_format)
    check_cluster(job.cluster, wants_gpu=_wants_gpu(job))
    use_endpoint(job.store.endpoint_url)
    patience = Patience(limit_s=job.execution.store_outage_s, on_wait=WaitNotices(print_warning).note)
    # A dry run writes nothing below the output.
    with TemporaryDirectory() as scratch:
        return _label(job, patience, scratch if job.run.dry_run else None)


def _label(job: LabelJob, patience: Patience, scratch: str | None) -> int:
    run, retry = _open(job, patience, scratch)
    plan = patience.call(lambda: plan_label_run(run, retry, job.run.limit))
    _print_plan(plan, job)
    if job.run.dry_run:
        _print_estimate(run, plan, job)
        return EXIT_OK
    if not plan.work and not plan.leftover_parts:
        print(f"nothing to do: every shard is {'labelled again' if job.retry else 'published'} under {job.out}")
        return _finish(job, patience.call(lambda: _conclude_published(run, plan, job)))
    on_ray = uses_ray(job.cluster, plan, wants_gpu=_wants_gpu(job))
    options, cluster = _prepare_ray(job, patience) if on_ray else _prepare_local(job, plan)
    code = drive(
        run,
        lambda hooks: label_run(run, options, retry=retry, limit=job.run.limit, hooks=hooks, cluster=cluster),
        command="label",
        grace_s=job.run.grace_s,
        allows_nothing_labelled=job.allow_nothing_labelled,
        uses_ray=on_ray,
    )
    if code == EXIT_OK and job.run.limit is None and run.config.inputs.tags_table and len(run.shards) <= MAX_FOOTERS:
        patience.call(lambda: print_unmatched(run))
    return _finish(job, code)


def _finish(job: LabelJob, code: int) -> int:
    """Name the next commands after a success; return the exit code."""
    if code == EXIT_OK:
        print_next(("review", "--labels", job.out), suggest_export(job.out))
    return code


def _conclude_published(run: Run, plan: Plan, job: LabelJob) -> int:
    """Print the totals of a finished run; return the exit code."""
    outcome = read_published(run, plan)
    if outcome is not None and run.config.inputs.tags_table and len(plan.sealed) == len(run.shards):
        print_unmatched(run)
    return conclude_published(outcome, allows_nothing_labelled=job.allow_nothing_labelled)


def _open(job: LabelJob, patience: Patience, scratch: str | None) -> tuple[Run, RetryOrder | None]:
    if job.retry is not None:
        check_retry(job.retry)
    vocabulary = patience.call(lambda: load_vocabulary(job.vocabulary))
    inputs = patience.call(lambda: settle_tags_table(settle_inputs(job.config.inputs, vocabulary)))

    def find() -> tuple[InputShard, ...]:
        return patience.call(lambda: find_shards(job, inputs, vocabulary, scratch))

    shards = find()
    bundle, digest = patience.call(lambda: describe_bundle(job.model))
    require_same_classes(bundle, vocabulary)
    if job.config.maps.kind == MapKind.PATCH_CAM and str(bundle.config.variant) == "v1":
        raise ValueError("this model (variant v1) has no patch CAM; give --maps.kind attention or fused")
    config = settle_config(replace(job.config, inputs=inputs), bundle.config.grid_side)
    config = _calibrate(job, config, digest, vocabulary)
    print_config({"model": job.model, "digest": digest, "out": job.out}, config)
    arguments: dict[str, Any] = {
        "out_uri": job.out,
        "model_uri": job.model,
        "model_digest": digest,
        "vocabulary": vocabulary,
        "config": config,
    }
    if job.retry is None:
        is_dry, extend = job.run.dry_run, job.run.extend

        def open_with(shards: Sequence[InputShard]) -> Run:
            return patience.call(lambda: open_run(**arguments, shards=shards, writes=not is_dry, extend=extend))

        run, num_listed = open_listed_run(shards, find, open_with, print_warning)
        if extend:
            print_extension(run, num_listed, is_dry=is_dry)
        return run, None
    asked, writes = job.retry, not job.run.dry_run
    return patience.call(lambda: open_ordered(Run(**arguments, shards=shards, fingerprint=""), asked, writes=writes))


def _calibrate(job: LabelJob, config: LabelConfig, model_digest: str, vocabulary: Vocabulary) -> LabelConfig:
    """Give the configuration, with the thresholds of the calibration if there is one.

    Raises:
        ValueError: Thresholds are given, too.
        CalibrationError: It was made for other class maps.
    """
    if job.calibration is None:
        return config
    plain = QUALITIES[job.quality]().maps
    if any(getattr(config.maps, name) != getattr(plain, name) for name in MASK_FIELDS):
        raise ValueError("--calibration sets the thresholds; leave them out, or the calibration")
    maps = describe_maps(model_digest, vocabulary.classes, config)
    return replace(config, maps=use_calibration(job.calibration, maps).apply(config.maps))


def _wants_gpu(job: LabelJob) -> bool | None:
    if job.execution.device != "auto":
        return job.execution.device == "cuda"
    return None if job.gpus_per_worker == "auto" else job.gpus_per_worker > 0


def _prepare_local(job: LabelJob, plan: Plan) -> tuple[LabelOptions, Cluster]:
    num_workers, num_cpus = share_cpus(job.workers, plan)
    num_cpus = int(job.cpus_per_worker or num_cpus) or 1
    print(f"labelling without Ray: {num_workers} processes of {num_cpus} CPUs each on this machine", flush=True)
    options = LabelOptions(
        **vars(job.execution), gpus_per_actor=0.0, cpus_per_actor=float(num_cpus), num_actors=num_workers
    )
    return options, make_local_cluster(num_workers)


def _prepare_ray(job: LabelJob, patience: Patience) -> tuple[LabelOptions, Cluster]:
    from jobs.cluster.connection import connect
    from pipeline.driver.ray_cluster import RayCluster

    # A bundle with damaged weights is found before Ray starts.
    patience.call(lambda: load_bundle(job.model))
    connect(job.cluster.address, num_cpus=(os.cpu_count() or 1) + 1)
    return _choose_options(job), RayCluster()


def _choose_options(job: LabelJob) -> LabelOptions:
    """Fill the cluster with workers unless the options set their number.

    Raises:
        LabellingError: Actors want GPUs and a cluster without any cannot get them; or they take all CPUs of this
            machine, and none is left for reading.
    """
    from jobs.cluster.actor_count import (
        choose_cpus,
        choose_gpus,
        choose_num_actors,
        describe_few_cpus,
        describe_no_room,
        describe_wait,
        measure_cluster,
    )

    size = measure_cluster()
    # On a cluster, GPUs are what labelling is paid for: no run of days starts on CPUs because its GPUs join later.
    may_grow = find_address(job.cluster.address) != "local"
    num_gpus = choose_gpus(job.gpus_per_worker, size, may_grow=may_grow)
    num_cpus = choose_cpus(job.cpus_per_worker, num_gpus, size)
    num_actors = choose_num_actors(job.workers, num_gpus, num_cpus, size)
    if full := describe_no_room(num_actors, num_cpus, size):
        if not may_grow:
            raise LabellingError(full)
        if not num_gpus:
            # Of nodes with GPUs, `describe_wait` tells.
            print_warning(f"{full}, unless nodes join")
    print(f"labelling with {num_actors} workers of {num_gpus:g} GPUs and {num_cpus:g} CPUs each")
    if few := describe_few_cpus(num_gpus, num_cpus):
        print_warning(few)
    if job.gpus_per_worker == "auto" and not num_gpus:
        print_warning("this machine has no GPU for Ray, so CPUs label; their masks may differ in single pixels")
    if wait := describe_wait(num_actors, num_gpus, size):
        print_warning(wait)
    return LabelOptions(
        **vars(job.execution),
        gpus_per_actor=num_gpus,
        cpus_per_actor=num_cpus,
        num_actors=num_actors,
    )


def _print_plan(plan: Plan, job: LabelJob) -> None:
    if job.retry is not None:
        chunks = [places for item in plan.work for places in (item.wanted or {}).values()]
        print(
            f"{plan.num_shards} published shards: {len(plan.work)} with rows to label again "
            f"({sum(map(len, chunks))} rows in {len(chunks)} chunks)",
            flush=True,
        )
        return
    to_do = plan.num_bytes - plan.num_bytes_done
    num_parts = sum(len(item.committed) for item in plan.work)
    print(
        f"{plan.num_shards} shards ({format_bytes(plan.num_bytes)}): {plan.num_sealed} published, "
        f"{len(plan.work)} to do ({format_bytes(to_do)}), {num_parts} of their chunks are committed",
        flush=True,
    )


def _print_estimate(run: Run, plan: Plan, job: LabelJob) -> None:
    if not plan.work or job.retry is not None:
        return
    estimate = estimate_rest(run, plan)
    if estimate is not None:
        print(
            f"to do: about {estimate.num_rows} images in {estimate.num_chunks} chunks, "
            f"by {estimate.num_sampled} {estimate.basis}"
        )
