"""Make new masks and statistics of kept maps: other thresholds, or drawn to the edges of the images, without GPU.

    python -m jobs.remask --labels s3://bucket/masks --out s3://bucket/masks-50 \\
        --maps.background-threshold 0.5 --maps.foreground-threshold 0.5

The run in --labels must have been made with --maps.keep-maps. What is not given stays as it was there. Images are read
again, from the shards that were labelled, where pixels refine the maps (--maps.pixel-refinement par, now or then); else
neither images nor model are needed. Run the same command again to go on after any interruption. Exit codes are those of
jobs.label.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.cluster import connect, use_endpoint
from jobs.console import EXIT_OK, leave, parse, print_config, run_job
from jobs.driving import drive, print_warning
from pipeline.commit.plan import Plan, plan_run
from pipeline.driver.waves import WaitNotices
from pipeline.kept_maps.source import KeptRun, open_kept_run
from pipeline.label import Assignment
from pipeline.labelling.label_actor import LabelOptions
from pipeline.remask import open_remask
from pipeline.run.config import MapConfig, PixelRefinement
from pipeline.storage.outage import DEFAULT_OUTAGE_S, Patience
from pipeline.thresholds.calibration import describe_maps, use_calibration


@dataclass(frozen=True, kw_only=True)
class MaskChanges:
    """What is made of the kept maps in another way than before."""

    background_threshold: float | None = None
    """Pixels whose best class map is at most this are background. Default: as it was."""
    foreground_threshold: float | None = None
    """Pixels whose best class map is above this get its class; between the two they are ignored (255). Default: as
    it was."""
    has_background: bool | None = None
    """False: every pixel gets its best tagged class. Default: as it was."""
    min_presence: float | None = None
    """Tags whose class the model takes for less probable than this are left out of the mask. Default: as it was."""

    pixel_refinement: PixelRefinement | None = None
    """par: draw the maps to the edges of the images, which are read again; none: do not. Default: as it was."""
    pixel_iterations: int | None = None
    """Rounds of the refinement by pixels. Default: as it was."""
    pixel_side_px: int | None = None
    """It works at about the pixels of a square of this side. Default: as it was."""

    def apply(self, maps: MapConfig) -> MapConfig:
        """Change what is given."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(maps, **given)


@dataclass(frozen=True, kw_only=True)
class RemaskJob:
    """Make new masks and statistics of kept maps. Run the same command again to resume."""

    labels: str
    """Output folder or URI of jobs.label or jobs.remask, labelled with --maps.keep-maps."""
    out: str
    """Output folder or URI of the new masks: laid out as that of jobs.label."""
    calibration: str | None = None
    """File of jobs.calibrate that sets thresholds; made for the same model, views and evidence."""
    maps: MaskChanges = field(default_factory=MaskChanges)
    """What changes."""
    limit: int | None = None
    """Only the first LIMIT shards. The whole can follow under the same --out."""
    dry_run: bool = False
    """Print what is done and what remains, and stop. Nothing is written."""
    no_progress_timeout_s: Annotated[float, tyro.conf.arg(name="no-progress-timeout")] = 300.0
    """When nothing is heard for so many seconds (no chunk, no worker that is busy), the work is ended by force and
    taken up again from what is committed."""
    store_outage_s: Annotated[float, tyro.conf.arg(name="store-outage")] = DEFAULT_OUTAGE_S
    """For how many seconds a store that is away, or a disk that is full, is waited for; 0: not at all."""
    grace_s: float = 2.0
    """After SIGTERM or SIGINT, seconds in which commits under way may finish. Ray kills a stopped job after 3 s."""
    address: str | None = None
    """Ray cluster to use. Default: the one that this job runs on, else a local one."""
    endpoint_url: str | None = None
    """Address of an S3-compatible store. Default: AWS_ENDPOINT_URL, else AWS. Credentials come from the usual chain."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: remask(parse(RemaskJob, __doc__, arguments)))


def remask(job: RemaskJob) -> int:
    """Make masks as the job says and return the exit code."""
    use_endpoint(job.endpoint_url)
    if job.limit is not None and job.limit < 1:
        raise ValueError(f"need --limit >= 1, got {job.limit}")
    patience = Patience(limit_s=job.store_outage_s, on_wait=WaitNotices(print_warning).note)
    kept = patience.call(lambda: open_kept_run(job.labels))
    maps = choose_maps(job, kept)
    run = patience.call(lambda: open_remask(job.out, kept, maps, writes=not job.dry_run))
    print_config({"labels": job.labels, "digest": kept.model_digest, "out": job.out}, run.config)
    if kept.num_unpublished:
        print_warning(f"{kept.num_unpublished} shards of '{job.labels}' are not published yet and are left out")
    assignment = Assignment(make_plan=lambda: plan_run(run, job.limit))
    plan = patience.call(assignment.make_plan)
    _print_plan(plan)
    if job.dry_run:
        return EXIT_OK
    if not plan.work and not plan.leftover_parts:
        print(f"nothing to do: every shard is published under {job.out}")
        return EXIT_OK
    connect(job.address, num_cpus=(os.cpu_count() or 1) + 1)
    # The limit held when the shards were labelled, and their rejected rows are carried over.
    options = LabelOptions(
        max_rejected_fraction=1.0,
        no_progress_timeout_s=job.no_progress_timeout_s,
        store_outage_s=job.store_outage_s,
    )
    return drive(run, options, assignment, grace_s=job.grace_s)


def choose_maps(job: RemaskJob, kept: KeptRun) -> MapConfig:
    """Choose the settings of the new masks: those of the kept run, changed by the options or a calibration."""
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


if __name__ == "__main__":
    leave(main())
