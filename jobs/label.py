"""Label tagged image shards with masks.

    python -m jobs.label --shards 's3://bucket/photos-{00000..00099}.tar' \\
        --vocabulary vocabulary.json --model s3://bucket/model --out s3://bucket/masks

Run the same command again to go on after any interruption: what is committed is not done twice, and a
finished run only says so. Exit code 0: every shard is published; 1: some shard is not; 2: the command or
its inputs are wrong; 75: stopped by a signal, run the same command again.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import ray
import ray.exceptions
import tyro

from jobs.cluster import connect, use_endpoint
from jobs.console import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    format_bytes,
    format_duration,
    leave,
    parse,
    peek,
    print_config,
    print_lines,
    run_job,
)
from jobs.qualities import QUALITIES
from pipeline.bundles import load_bundle, require_same_classes
from pipeline.calibration import MASK_FIELDS, describe_maps, use_calibration
from pipeline.config import LabelConfig, MapKind, settle_config
from pipeline.errors import LabellingError
from pipeline.label import Assignment, LabelSummary, Stop, label_run
from pipeline.label_actor import LabelOptions
from pipeline.ledger import Progress
from pipeline.records import Reason
from pipeline.resume import Plan, estimate_rest, plan_run
from pipeline.retry import open_retry, parse_reasons, plan_retry, replace_manifest
from pipeline.run import Run, open_run
from pipeline.shards import list_shards
from pipeline.vocabulary import Vocabulary, load_vocabulary

PROGRESS_PERIOD_S = 5.0
SILENCE_PERIOD_S = 60.0
"""After so long a line is printed even if nothing has changed."""


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Label tagged image shards with masks. Run the same command again to resume."""

    shards: tuple[str, ...]
    """WebDataset tars or Parquet files: paths or URIs, globs, {00000..00099} ranges, or folders."""
    vocabulary: str
    """Vocabulary file (JSON or YAML): classes in the model's order, and their aliases."""
    model: str
    """Model bundle: the folder that jobs.train or jobs.import_checkpoint wrote."""
    out: str
    """Output folder or URI. Manifests appear in OUT/labels, one per shard."""
    calibration: str | None = None
    """File of jobs.calibrate that sets thresholds; made for the same model, views and evidence."""
    gpus_per_actor: float = 1.0
    """GPUs of a labelling actor: 1, a fraction to share one, 0 to label on CPUs."""
    cpus_per_actor: float = 1.0
    """CPUs of a labelling actor; without GPU they run the model too."""
    num_actors: int | None = None
    """Labelling actors. Default: as many as the cluster holds when the job starts."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda when the actor holds a GPU."""
    batch_size: int = 16
    """Images of one shape in a forward pass."""
    max_rejected_fraction: float = 0.5
    """A shard with a larger share of rejected rows is not published; no_known_tag and download_failed do not count."""
    stall_timeout_s: float = 300.0
    """A worker that shows no progress for so many seconds is ended, and its chunk tried again."""
    grace_s: float = 2.0
    """After SIGTERM or SIGINT, seconds in which commits under way may finish. Ray kills a stopped job after 3 s."""
    limit: int | None = None
    """Label only the first LIMIT shards. The whole can follow under the same --out."""
    retry: str | None = None
    """Label again what a finished run rejected: 'rejected', or 'rejected:too_large,crashed' for some reasons. The
    limit that rejected them may be raised in the same command; everything else stays as it was."""
    dry_run: bool = False
    """Print what is done and what remains, and stop. Nothing is written."""
    address: str | None = None
    """Ray cluster to use. Default: the one that this job runs on, else a local one."""
    endpoint_url: str | None = None
    """Address of an S3-compatible store. Default: AWS_ENDPOINT_URL, else AWS. Credentials come from the usual chain."""
    quality: Literal["fast", "balanced", "best"] = "balanced"
    """What better maps may cost; gives the defaults of the options below. See jobs/qualities.py."""
    config: Annotated[LabelConfig, tyro.conf.arg(name="")] = field(default_factory=QUALITIES["balanced"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: label(parse_command(arguments)))


def parse_command(arguments: Sequence[str] | None) -> LabelJob:
    """Parse the quality first, then everything with its values as defaults."""
    quality = peek(arguments, "--quality") or "balanced"
    default = LabelJob(
        shards=tyro.MISSING,
        vocabulary=tyro.MISSING,
        model=tyro.MISSING,
        out=tyro.MISSING,
        config=QUALITIES.get(quality, QUALITIES["balanced"])(),
    )
    return parse(LabelJob, __doc__, arguments, default)


def label(job: LabelJob) -> int:
    """Label as the job says and return the exit code."""
    use_endpoint(job.endpoint_url)
    if job.limit is not None and job.limit < 1:
        raise ValueError(f"need --limit >= 1, got {job.limit}")
    run, assignment = _open(job)
    plan = assignment.make_plan()
    _print_plan(plan, job)
    if job.dry_run:
        _print_estimate(run, plan, job)
        return EXIT_OK
    if not plan.work and not plan.leftover_parts:
        print(f"nothing to do: every shard is {'labelled again' if job.retry else 'published'} under {job.out}")
        return EXIT_OK
    connect(job.address, num_cpus=(os.cpu_count() or 1) + 1)
    options = _choose_options(job)
    print(f"labelling with {options.num_actors} actors of {options.gpus_per_actor:g} GPUs each")
    return drive(run, options, assignment, grace_s=job.grace_s)


def drive(run: Run, options: LabelOptions, assignment: Assignment, *, grace_s: float) -> int:
    """Do what remains of a run, show it, hear signals, and return the exit code. Ray is connected."""
    try:
        with stop_on_signals(Stop(grace_s=grace_s)) as stop:
            summary = label_run(
                run,
                options,
                on_progress=ProgressPrinter(),
                on_warning=print_warning,
                stop=stop,
                assignment=assignment,
            )
    except ray.exceptions.RayError as error:
        print(f"error: Ray failed: {error}\nwhat is committed stays; run the same command again", file=sys.stderr)
        return EXIT_FAILED
    return conclude(run.out_uri, summary)


def _open(job: LabelJob) -> tuple[Run, Assignment]:
    reasons = parse_reasons(job.retry) if job.retry is not None else None
    vocabulary = load_vocabulary(job.vocabulary)
    model, bundle, digest = load_bundle(job.model)
    require_same_classes(bundle, vocabulary)
    if job.config.maps.kind == MapKind.PATCH_CAM and str(model.config.variant) == "v1":
        raise ValueError("this model (variant v1) has no patch CAM; give --maps.kind attention or fused")
    shards = list_shards(job.shards)
    config = _calibrate(job, settle_config(job.config, model.config.grid_side), digest, vocabulary)
    print_config({"model": job.model, "digest": digest, "out": job.out}, config)
    arguments: dict[str, Any] = {
        "out_uri": job.out,
        "model_uri": job.model,
        "model_digest": digest,
        "vocabulary": vocabulary,
        "config": config,
        "shards": shards,
    }
    if reasons is None:
        run = open_run(**arguments, writes=not job.dry_run)
        return run, Assignment(make_plan=lambda: plan_run(run, job.limit))
    run, order = open_retry(Run(**arguments, fingerprint=""), reasons)
    return run, Assignment(
        make_plan=lambda: plan_retry(run, order, job.limit),
        publish=replace_manifest,
        publish_arguments={"order": order},
    )


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


def _choose_options(job: LabelJob) -> LabelOptions:
    """Fill the cluster with actors unless the user says how many.

    Raises:
        LabellingError: Actors want GPUs and a cluster without any cannot get them.
    """
    resources = ray.cluster_resources()
    if job.gpus_per_actor > 0:
        num_gpus = resources.get("GPU", 0.0)
        if num_gpus < job.gpus_per_actor and job.num_actors is None:
            raise LabellingError(
                f"the cluster has {num_gpus:g} GPUs and an actor wants {job.gpus_per_actor:g}; "
                "give --gpus-per-actor 0 to label on CPUs, or --num-actors to wait for GPUs to join"
            )
        fitting = math.floor(num_gpus / job.gpus_per_actor)
    else:
        # One CPU stays free for reading and sealing, or nothing would ever reach the actors.
        fitting = math.floor((resources.get("CPU", 1.0) - 1) / job.cpus_per_actor)
    return LabelOptions(
        gpus_per_actor=job.gpus_per_actor,
        cpus_per_actor=job.cpus_per_actor,
        num_actors=job.num_actors or max(1, fitting),
        device=job.device,
        batch_size=job.batch_size,
        max_rejected_fraction=job.max_rejected_fraction,
        stall_timeout_s=job.stall_timeout_s,
    )


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into an orderly stop. Comes after ray.init, which installs its own handler."""

    def request_stop(signum: int, frame: object) -> None:
        if stop.is_requested:
            raise KeyboardInterrupt
        print(
            f"{signal.Signals(signum).name}: stopping within {stop.grace_s:g} s, what is committed stays; "
            "once more to stop at once",
            file=sys.stderr,
            flush=True,
        )
        stop.request()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProgressPrinter:
    """Prints a line every few seconds: shards, images, speed, time left."""

    def __init__(self, period_s: float = PROGRESS_PERIOD_S) -> None:
        """Print at most one line in `period_s` seconds, and one whenever a shard is published."""
        self._period_s = period_s
        self._last_s = time.monotonic()
        self._first: Progress | None = None
        self._num_sealed = 0
        self._num_read = 0

    def __call__(self, progress: Progress) -> None:
        """Show a state, if it is time."""
        # Starting actors takes a while: speed is counted from the first chunk that came back.
        if self._first is None and progress.counts.num_read:
            self._first = progress
        now = time.monotonic()
        has_sealed = progress.num_sealed not in (self._num_sealed, 0)
        has_read = progress.counts.num_read != self._num_read
        if now - self._last_s < (self._period_s if has_read else SILENCE_PERIOD_S) and not has_sealed:
            return
        self._last_s, self._num_sealed, self._num_read = now, progress.num_sealed, progress.counts.num_read
        print(self._describe(progress), flush=True)

    def _describe(self, progress: Progress) -> str:
        counts = progress.counts
        first = self._first or progress
        seconds = progress.elapsed_s - first.elapsed_s
        num_images = counts.num_read - first.counts.num_read
        num_bytes = progress.num_bytes_done - first.num_bytes_done
        speed = f"{num_images / seconds:.1f} images/s" if seconds > 0 and num_images else "- images/s"
        left = (progress.num_bytes - progress.num_bytes_done) * seconds / num_bytes if num_bytes > 0 else None
        return (
            f"{progress.num_sealed}/{progress.num_shards} shards, {counts.num_read} images "
            f"({counts.num_rejected} rejected), {speed}, "
            f"{'-' if left is None else format_duration(left)} left"
        )


def print_warning(warning: str) -> None:
    """Show what an operator should know."""
    print_lines(f"warning: {warning}", to_stderr=True)


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


def conclude(out_uri: str, summary: LabelSummary) -> int:
    """Print what an invocation did and what is left, and give the exit code."""
    counts = summary.counts
    print(
        f"labelled {counts.num_labelled} and rejected {counts.num_rejected} of {counts.num_read} images "
        f"in {format_duration(summary.elapsed_s)}; published {summary.num_sealed} shards"
    )
    for reason, number in sorted(counts.rejected_by_reason.items()):
        print(f"  rejected, {reason}: {number}")
    if counts.num_read and counts.rejected_by_reason.get(Reason.NO_KNOWN_TAG, 0) == counts.num_read:
        print("warning: no image had a known tag; check the vocabulary and --inputs.tags-field", file=sys.stderr)
    for _, damage in sorted(summary.cut_shards.items()):
        print_warning(damage)
    for name, error in sorted(summary.failed_shards.items()):
        print_lines(f"error: {error if name in error else f'{name}: {error}'}", to_stderr=True)
    if summary.was_stopped:
        print(f"stopped with {summary.num_shards_left} shards to do; run the same command again to go on")
        return EXIT_STOPPED
    if summary.num_shards_left:
        print(
            f"{summary.num_shards_left} shards are not published; run the same command again when what held them up is "
            "over, but a shard that was mended is another input and needs another --out"
        )
        return EXIT_FAILED
    print(f"masks and statistics: {out_uri.rstrip('/')}/labels/*.parquet")
    return EXIT_OK


if __name__ == "__main__":
    leave(main())
