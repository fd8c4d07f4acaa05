"""Label tagged image shards with masks.

    python -m jobs.label --shards 's3://bucket/photos-{00000..00099}.tar' \\
        --vocabulary vocabulary.json --model s3://bucket/model --out s3://bucket/masks

Run the same command again to go on after any interruption: what is committed is not done twice, and a
finished run only says so. Exit code 0: every shard is published; 1: some shard is not; 2: the command or
its inputs are wrong; 75: stopped by a signal, run the same command again.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from jobs.actor_count import choose_num_actors, describe_wait, measure_cluster
from jobs.cluster import connect, use_endpoint
from jobs.console import EXIT_OK, format_bytes, leave, parse, peek, print_config, run_job
from jobs.driving import drive, print_warning
from jobs.qualities import QUALITIES
from pipeline.commit.plan import Plan, estimate_rest, plan_run
from pipeline.commit.retry import open_retry, parse_reasons, plan_retry, replace_manifest
from pipeline.driver.waves import WaitNotices
from pipeline.inputs.shards import list_shards
from pipeline.label import Assignment
from pipeline.labelling.label_actor import LabelOptions
from pipeline.run.bundles import load_bundle, require_same_classes
from pipeline.run.config import LabelConfig, MapKind, settle_config
from pipeline.run.identity import Run, open_run
from pipeline.run.vocabulary import Vocabulary, load_vocabulary
from pipeline.storage.outage import DEFAULT_OUTAGE_S, Patience
from pipeline.thresholds.calibration import MASK_FIELDS, describe_maps, use_calibration


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
    no_progress_timeout_s: Annotated[float, tyro.conf.arg(name="no-progress-timeout")] = 300.0
    """When nothing is heard for so many seconds (no chunk, no worker that is busy), the workers are ended by force and
    the work is taken up again from what is committed. Waiting for GPUs that are still to join does not count."""
    store_outage_s: Annotated[float, tyro.conf.arg(name="store-outage")] = DEFAULT_OUTAGE_S
    """For how many seconds a store that is away, or a disk that is full, is waited for; 0: not at all."""
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
    patience = Patience(limit_s=job.store_outage_s, on_wait=WaitNotices(print_warning).note)
    run, assignment = _open(job, patience)
    plan = patience.call(assignment.make_plan)
    _print_plan(plan, job)
    if job.dry_run:
        _print_estimate(run, plan, job)
        return EXIT_OK
    if not plan.work and not plan.leftover_parts:
        print(f"nothing to do: every shard is {'labelled again' if job.retry else 'published'} under {job.out}")
        return EXIT_OK
    connect(job.address, num_cpus=(os.cpu_count() or 1) + 1)
    return drive(run, _choose_options(job), assignment, grace_s=job.grace_s)


def _open(job: LabelJob, patience: Patience) -> tuple[Run, Assignment]:
    reasons = parse_reasons(job.retry) if job.retry is not None else None
    vocabulary = patience.call(lambda: load_vocabulary(job.vocabulary))
    model, bundle, digest = patience.call(lambda: load_bundle(job.model))
    require_same_classes(bundle, vocabulary)
    if job.config.maps.kind == MapKind.PATCH_CAM and str(model.config.variant) == "v1":
        raise ValueError("this model (variant v1) has no patch CAM; give --maps.kind attention or fused")
    shards = patience.call(lambda: list_shards(job.shards))
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
        run = patience.call(lambda: open_run(**arguments, writes=not job.dry_run))
        return run, Assignment(make_plan=lambda: plan_run(run, job.limit))
    run, order = patience.call(lambda: open_retry(Run(**arguments, fingerprint=""), reasons))
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
    size = measure_cluster()
    num_actors = choose_num_actors(job.num_actors, job.gpus_per_actor, job.cpus_per_actor, size)
    print(f"labelling with {num_actors} actors of {job.gpus_per_actor:g} GPUs each")
    if wait := describe_wait(num_actors, job.gpus_per_actor, size):
        print_warning(wait)
    return LabelOptions(
        gpus_per_actor=job.gpus_per_actor,
        cpus_per_actor=job.cpus_per_actor,
        num_actors=num_actors,
        device=job.device,
        batch_size=job.batch_size,
        max_rejected_fraction=job.max_rejected_fraction,
        stall_timeout_s=job.stall_timeout_s,
        no_progress_timeout_s=job.no_progress_timeout_s,
        store_outage_s=job.store_outage_s,
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


if __name__ == "__main__":
    leave(main())
