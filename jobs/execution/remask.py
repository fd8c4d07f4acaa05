"""Make new masks of kept maps: open the run, show what remains, and drive it."""

from dataclasses import replace

from jobs.arguments.remask import RemaskJob
from jobs.cluster.choice import check_cluster, open_cluster
from jobs.cluster.driving import conclude_published, drive, print_next, print_warning, read_published, suggest_export
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_OK, print_config
from jobs.display.extension import print_extension
from jobs.display.streams import use_log_format
from pipeline.commit.plan import Plan, plan_run
from pipeline.driver.silence import WaitNotices
from pipeline.kept_maps.kept_run import KeptRun, open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.remask import remask_run
from pipeline.run.config import MapConfig
from pipeline.run.options import DriverOptions
from pipeline.storage.outage import Patience
from pipeline.thresholds.calibration import describe_maps, use_calibration


def remask(job: RemaskJob) -> int:
    """Make masks and return the exit code."""
    use_log_format(job.log.log_format)
    check_cluster(job.cluster, wants_gpu=False)
    use_endpoint(job.store.endpoint_url)
    patience = Patience(limit_s=job.waits.store_outage_s, on_wait=WaitNotices(print_warning).note)
    kept = patience.call(lambda: open_kept_run(job.labels))
    maps = choose_maps(job, kept)
    is_dry, extend = job.run.dry_run, job.run.extend
    run = patience.call(lambda: open_remask(job.out, kept, maps, writes=not is_dry, extend=extend))
    print_config({"labels": job.labels, "digest": kept.model_digest, "out": job.out}, run.config)
    if extend:
        print_extension(run, len(kept.shards), is_dry=is_dry)
    if kept.num_unpublished:
        print_warning(f"{kept.num_unpublished} shards of '{job.labels}' are not published yet and are left out")
    plan = patience.call(lambda: plan_run(run, job.run.limit))
    _print_plan(plan)
    if job.run.dry_run:
        return EXIT_OK
    if not plan.work and not plan.leftover_parts:
        print(f"nothing to do: every shard is published under {job.out}")
        published = patience.call(lambda: read_published(run, plan))
        return _finish(job, conclude_published(published, allows_nothing_labelled=job.allow_nothing_labelled))
    cluster, on_ray = open_cluster(job.cluster, plan, "making masks")
    options = DriverOptions(**vars(job.waits))
    code = drive(
        run,
        lambda hooks: remask_run(run, options, limit=job.run.limit, hooks=hooks, cluster=cluster),
        command="remask",
        grace_s=job.run.grace_s,
        allows_nothing_labelled=job.allow_nothing_labelled,
        uses_ray=on_ray,
    )
    return _finish(job, code)


def _finish(job: RemaskJob, code: int) -> int:
    """Name the next commands after a success; return the exit code."""
    if code == EXIT_OK:
        compare = ("review", "--labels", job.out, "--labels", job.labels)
        print_next(compare, suggest_export(job.out))
    return code


def choose_maps(job: RemaskJob, kept: KeptRun) -> MapConfig:
    changed = job.maps.apply(kept.config.maps)
    if job.calibration is None:
        return changed
    if job.maps.background_threshold is not None or job.maps.foreground_threshold is not None:
        raise ValueError("--calibration sets the thresholds; leave them out, or the calibration")
    maps = describe_maps(kept.model_digest, kept.vocabulary.classes, replace(kept.config, maps=changed))
    return use_calibration(job.calibration, maps).apply(changed)


def _print_plan(plan: Plan) -> None:
    num_parts = sum(len(item.committed) for item in plan.work)
    print(
        f"{plan.num_shards} shards: {plan.num_sealed} published, {len(plan.work)} to do, "
        f"{num_parts} of their chunks are committed",
        flush=True,
    )
