"""Prove that the books of a labelling run balance: every sample of every input shard is a row, once.

    python -m jobs.verify --out s3://bucket/masks

Reads every manifest and every input again: each byte of a manifest, each row, each mask, and the image that it
was made of. Masks are measured again, and inputs walked through, by code that labelling does not use. With
--sample 0.01 the masks and images of one row in a hundred are looked at. With --footers-only it reads the
footers of the manifests and no input: cheap, and enough to see that all shards are published and their counts
add up. Run it while nobody labels. Nothing is changed.

Exit code 0: the books balance; 1: they do not, or Ray failed; 2: the command is wrong or there is no run.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray.exceptions

from jobs.cluster import connect, use_endpoint
from jobs.console import EXIT_FAILED, EXIT_OK, parse, run_job
from pipeline.audit.verdict import CONTENT_CHECKS, WARNINGS, Check, Finding, Verdict
from pipeline.audit.verify import FOOTERS, FULL, judge_model, list_run, verify_run
from pipeline.printable import escape_controls
from pipeline.storage.writing import put_atomic
from pipeline.workers.ray_failures import describe_ray_failure

PROGRESS_PERIOD_S = 5.0
NUM_EXAMPLES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class VerifyJob:
    """Prove that the books of a labelling run balance."""

    out: str
    """Output folder or URI of jobs.label."""
    footers_only: bool = False
    """Read the footers of the manifests only: their identity and counts, no rows and no inputs."""
    sample: float = 1.0
    """Share of the rows, in [0, 1], whose masks are decoded and whose images are read: by a hash of their keys, so
    the same rows every time. All else is read in full."""
    report: str | None = None
    """Also write the verdict to this JSON file or URI."""
    address: str | None = None
    """Ray cluster to use. Default: the one that this job runs on, else a local one. A small run needs none."""
    endpoint_url: str | None = None
    """Address of an S3-compatible store. Default: AWS_ENDPOINT_URL, else AWS. Credentials come from the usual chain."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: verify(parse(VerifyJob, __doc__, arguments)))


def verify(job: VerifyJob) -> int:
    """Verify as the job says and return the exit code."""
    if not 0 <= job.sample <= 1:
        raise ValueError(f"need --sample from 0 to 1, got {job.sample}")
    use_endpoint(job.endpoint_url)
    depth = FOOTERS if job.footers_only else FULL
    listing = list_run(job.out)
    if listing.needs_ray(depth):
        connect(job.address)
    try:
        verdict = verify_run(
            listing, depth, sample_fraction=job.sample, on_progress=ProgressPrinter(len(listing.published))
        )
    except ray.exceptions.RayError as error:
        print(
            f"error: Ray failed: {describe_ray_failure(error)}\nnothing is proved; run the same command again",
            file=sys.stderr,
        )
        return EXIT_FAILED
    obstacle = "footers only"
    if not job.footers_only:
        of_model, obstacle = judge_model(listing)
        verdict = verdict.merge(of_model)
    print_table(verdict, footers_only=job.footers_only)
    print_totals(verdict, job, obstacle)
    if job.report:
        facts = {
            "out": job.out,
            "fingerprint": listing.fingerprint,
            "footers_only": job.footers_only,
            "sample": job.sample,
            "model_not_checked": obstacle,
        }
        put_atomic(job.report, json.dumps(facts | verdict.to_dict(), indent=1).encode())
    return EXIT_FAILED if verdict.failed_checks else EXIT_OK


class ProgressPrinter:
    """Prints a line every few seconds: manifests looked at, rows so far, failed checks."""

    def __init__(self, num_manifests: int) -> None:
        """Expect so many manifests."""
        self._num_manifests = num_manifests
        self._last_s = time.monotonic()

    def __call__(self, verdict: Verdict) -> None:
        """Show a state, if it is time."""
        now = time.monotonic()
        if now - self._last_s < PROGRESS_PERIOD_S:
            return
        self._last_s = now
        print(
            f"{verdict.num_published} of {self._num_manifests} manifests read, {verdict.counts.num_read} rows, "
            f"{len(verdict.failed_checks)} checks failed so far",
            file=sys.stderr,
            flush=True,
        )


def print_table(verdict: Verdict, *, footers_only: bool) -> None:
    """Print a line a check; under a failed one its first examples."""
    print(f"{'check':28s}{'shards':>10s}{'rows':>12s}  example")
    for check in Check:
        name = f"{check} (warning)" if check in WARNINGS else str(check)
        if footers_only and check in CONTENT_CHECKS:
            print(f"{name:28s}{'-':>10s}{'-':>12s}  not checked: footers only")
            continue
        finding = verdict.findings.get(check, Finding())
        # Errors of libraries may have several lines, and so may keys.
        shown = [escape_controls(" ".join(example.text.split())) for example in finding.examples[:NUM_EXAMPLES_SHOWN]]
        print(f"{name:28s}{finding.num_shards:10d}{finding.num_rows or '-':>12}  {shown[0] if shown else ''}".rstrip())
        for text in shown[1:]:
            print(f"{'':50s}  {text}")


def print_totals(verdict: Verdict, job: VerifyJob, obstacle: str) -> None:
    """Print what there is in all, and the verdict.

    Args:
        verdict: On the run.
        job: What was looked at.
        obstacle: Why the model could not be looked at; empty if it could.
    """
    counts = verdict.counts
    print(f"\n{verdict.num_published} of {verdict.num_shards} shards published, {counts.num_read} rows read")
    print(f"  labelled: {counts.num_labelled}")
    for reason, number in sorted(counts.rejected_by_reason.items()):
        print(f"  rejected, {escape_controls(reason) or 'without a known reason'}: {number}")
    if obstacle:
        print(f"the model was not held against its digest: {escape_controls(obstacle)}")
    if job.sample < 1 and not job.footers_only:
        print(f"masks and images were looked at in {job.sample:.3g} of the rows")
    if verdict.failed_checks:
        print(f"the books do not balance: {', '.join(verdict.failed_checks)}")
    elif job.footers_only:
        print("the footers balance; rows and inputs were not read, leave out --footers-only to compare them")
    else:
        print("the books balance: every sample of every input is a row, once and in order")


if __name__ == "__main__":
    sys.exit(main())
