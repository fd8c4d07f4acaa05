"""Export a published run: choose the rows, show what remains, and drive it."""

from contextlib import nullcontext
from functools import partial

from jobs.arguments.export import ExportJob, Filters
from jobs.cluster.choice import check_cluster, open_cluster
from jobs.cluster.driving import GO_ON, print_warning, warn_in_log, watch_ray, watch_run
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, format_duration, print_lines
from jobs.display.progress import ProgressDisplay
from jobs.display.streams import use_log_format
from pipeline.commit.plan import Plan
from pipeline.driver.silence import WaitNotices
from pipeline.export.job.assembly import ExportSummary, export_run
from pipeline.export.job.best_rows import find_levels
from pipeline.export.job.finish import NothingExportedError, find_rare_classes, finish_export
from pipeline.export.job.identity import Export, claim_folder
from pipeline.export.job.records import ShardCounts, list_items, plan_export
from pipeline.export.job.selection import Selection
from pipeline.progress.progress_file import ProgressFile
from pipeline.published.decisions import Decisions, read_decisions
from pipeline.published.filters import RowFilter
from pipeline.published.overrides import Overrides, read_overrides
from pipeline.published.run import PublishedRun, open_published
from pipeline.published.splits import parse_splits
from pipeline.run.options import DriverOptions
from pipeline.storage.outage import Patience
from pipeline.storage.reading import read_bytes


def export(job: ExportJob) -> int:
    """Export and return the exit code."""
    if job.limit is not None and job.limit < 1:
        raise ValueError(f"need --limit >= 1, got {job.limit}")
    use_log_format(job.log.log_format)
    check_cluster(job.cluster, wants_gpu=False)
    use_endpoint(job.store.endpoint_url)
    patience = Patience(limit_s=job.waits.store_outage_s, on_wait=WaitNotices(print_warning).note)
    opened = patience.call(lambda: open_export(job))
    patience.call(lambda: claim_folder(opened, writes=not job.dry_run))
    _warn_of_unpublished(opened.run)
    plan = patience.call(lambda: plan_export(opened, job.limit))
    print(f"{plan.num_shards} shards: {plan.num_sealed} exported, {len(plan.work)} to do", flush=True)
    if job.dry_run:
        return EXIT_OK
    try:
        if not plan.work:
            items = list_items(opened)[: job.limit]
            counts = patience.call(lambda: finish_export(opened, items))
            return _conclude_complete(opened, counts)
        return _drive(job, opened, plan)
    except NothingExportedError as error:
        print_lines(f"error: {error}", to_stderr=True)
        return EXIT_FAILED


def open_export(job: ExportJob) -> Export:
    """Open the run and check the options, before any work.

    Raises:
        ValueError: An option is out of range, or does not fit the format.
        VocabularyError: The run lacks a class of the filter.
        ManifestError: The run is damaged, or nothing is published.
    """
    chosen, splits, filters = job.formats.choose(job.format), parse_splits(job.splits), job.filters
    # Shares and limits are checked before the pass over the run.
    selection = Selection(min_quality=filters.min_quality, best_fraction=filters.best_fraction, splits=splits)
    keys = None if filters.keys is None else _read_keys(filters.keys)
    run = open_published(job.labels)
    class_ids = None
    if filters.classes is not None:
        names = tuple(name.strip() for name in filters.classes.split(",") if name.strip())
        if not names:
            raise ValueError("need names of classes in --classes, separated by commas")
        class_ids = RowFilter(class_names=names).settle(run).class_ids
    fraction = filters.best_fraction
    overrides = None if filters.without_overrides else read_overrides(run.uri)
    selection = Selection(
        keys=keys,
        class_ids=class_ids,
        min_quality=filters.min_quality,
        best_fraction=fraction,
        levels=None if fraction is None else find_levels(run, fraction, overrides),
        is_reviewed=filters.reviewed,
        is_without_refused=filters.without_refused,
        decisions=_read_decisions(run, filters, overrides),
        overrides=overrides,
        splits=splits,
    )
    opened = Export(
        run=run,
        out_uri=job.out,
        format_name=job.format,
        format=chosen,
        selection=selection,
        skip_missing=job.skip_missing,
    )
    chosen.check(opened.context)
    return opened


def _read_decisions(run: PublishedRun, filters: Filters, overrides: Overrides | None) -> Decisions:
    """Read the decisions of reviewers, if a filter needs them."""
    if not filters.reviewed and not filters.without_refused:
        return Decisions()
    decisions = read_decisions(run.uri)
    if not decisions and not overrides:
        option = "--reviewed" if filters.reviewed else "--without-refused"
        raise ValueError(f"{option} needs decisions, and nobody has reviewed '{run.uri}'; run tagmask review first")
    return decisions


def _read_keys(uri: str) -> frozenset[str]:
    try:
        text = read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file of --keys '{uri}' is not UTF-8; write one key a line") from error
    # Not splitlines: a key may hold a separator of Unicode.
    keys = frozenset(line.removesuffix("\r") for line in text.split("\n") if line.strip())
    if not keys:
        raise ValueError(f"the file of --keys '{uri}' has no keys; write one a line")
    return keys


def _warn_of_unpublished(run: PublishedRun) -> None:
    published = {shard.name for shard in run.shards}
    missing = [str(recorded[1]) for recorded in run.record["inputs"] if recorded[1] not in published]
    if missing:
        some = ", ".join(f"'{name}'" for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
        print_warning(
            f"{len(missing)} shards of '{run.uri}' are not published yet and are left out: {some}; "
            "run the same command again when they are"
        )


def _drive(job: ExportJob, opened: Export, plan: Plan) -> int:
    cluster, on_ray = open_cluster(job.cluster, plan, "exporting")
    watching = watch_ray(partial(_describe_loss, job.out)) if on_ray else nullcontext()
    options = DriverOptions(**vars(job.waits))
    return watch_run(
        lambda hooks: export_run(opened, options, limit=job.limit, hooks=hooks, cluster=cluster),
        lambda summary: _conclude(opened, summary),
        file=ProgressFile(job.out, "export", warn_in_log),
        display=ProgressDisplay("left out"),
        grace_s=job.grace_s,
        watching=watching,
    )


def _describe_loss(out_uri: str) -> str:
    return f"exported shards stay under '{out_uri}'; {GO_ON} once there is a cluster"


def _conclude(opened: Export, summary: ExportSummary) -> int:
    for name, error in sorted(summary.run.failed_shards.items()):
        print_lines(f"error: {error if name in error else f'{name}: {error}'}", to_stderr=True)
    print(f"exported {summary.run.num_sealed} shards in {format_duration(summary.run.elapsed_s)}")
    if summary.counts is not None:
        return _conclude_complete(opened, summary.counts)
    left = f"{summary.run.num_shards_left} shards are not exported, and joint files are not written"
    if summary.run.was_stopped:
        print(f"stopped: {left}; run the same command again to go on")
        return EXIT_STOPPED
    print(f"{left}; mend what held them up and run the same command again")
    return EXIT_FAILED


def _conclude_complete(opened: Export, counts: ShardCounts) -> int:
    names = opened.context.class_names
    for split in opened.context.splits:
        print(f"{split}: {counts.images[split]} images")
        for value, num in sorted(counts.pixels.get(split, {}).items()):
            name = names[value] if value < len(names) else "ignored"
            print_lines(f"  {name}: {num} pixels")
    for value, num in sorted(counts.labelled_of_class.items()):
        print_lines(f"{names[value]}: {counts.exported_of_class[value]} of {num} labelled images")
    if overrides := opened.selection.overrides:
        print(f"corrected masks: {counts.num_corrected} exported, {len(overrides)} in the run")
    for reason, num in sorted(counts.left_out.items()):
        print(f"left out, {reason}: {num}")
    for rare in find_rare_classes(opened, counts):
        print_warning(
            f"the filters leave {rare.num_exported} of {rare.num_labelled} images of class '{rare.name}': a network "
            "trained on them may not learn it; --best-fraction keeps a share of each set of classes"
        )
    print_lines(f"exported {counts.num_exported} of {counts.num_read} images as {opened.format_name}: {opened.out_uri}")
    return EXIT_OK
