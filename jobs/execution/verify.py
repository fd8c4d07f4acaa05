"""Verify a labelling run: read what is published, print a line a check, write the verdict."""

import json
import sys
import time

import ray.exceptions

from jobs.arguments.verify import VerifyJob
from jobs.cluster.connection import connect
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_FAILED, EXIT_OK
from pipeline.audit.archives.member_counts import MemberCounts
from pipeline.audit.collections.judge import CollectionVerdict, judge_collections
from pipeline.audit.verdict import CONTENT_CHECKS, WARNINGS, Check, Finding, Verdict
from pipeline.audit.verify import FOOTERS, FULL, judge_model, list_run, verify_run
from pipeline.printable import escape_controls
from pipeline.storage.writing import put_atomic
from pipeline.workers.ray_failures import describe_ray_failure

PROGRESS_PERIOD_S = 5.0
NUM_EXAMPLES_SHOWN = 3


def verify(job: VerifyJob) -> int:
    """Verify and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    depth = FOOTERS if job.footers_only else FULL
    listing = list_run(job.labels)
    if listing.needs_ray(depth):
        connect(job.cluster.address)
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
    obstacle, collections = "footers only", CollectionVerdict()
    if not job.footers_only:
        of_model, obstacle = judge_model(listing)
        collections = judge_collections(
            listing.record.shards, has_tags_table=bool(listing.record.inputs.get("tags_table"))
        )
        verdict = verdict.merge(of_model).merge(collections.verdict)
    print_table(verdict, footers_only=job.footers_only)
    print_totals(verdict, job, obstacle, collections)
    if job.json:
        facts = {
            "out": job.labels,
            "fingerprint": listing.fingerprint,
            "footers_only": job.footers_only,
            "sample": job.sample,
            "model_not_checked": obstacle,
            "collections_not_checked": collections.obstacles,
        }
        put_atomic(job.json, json.dumps(facts | verdict.to_dict(), indent=1).encode())
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


def print_totals(verdict: Verdict, job: VerifyJob, obstacle: str, collections: CollectionVerdict) -> None:
    """Print what there is in all, and the verdict.

    Args:
        verdict: On the run.
        job: What was looked at.
        obstacle: Why the model could not be looked at; empty if it could.
        collections: What the indexes of folders and tables were compared with.
    """
    counts = verdict.counts
    print(f"\n{verdict.num_published} of {verdict.num_shards} shards published, {counts.num_read} rows read")
    print(f"  labelled: {counts.num_labelled}")
    for reason, number in sorted(counts.rejected_by_reason.items()):
        print(f"  rejected, {escape_controls(reason) or 'without a known reason'}: {number}")
    print_members(verdict.members)
    print_collections(collections)
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


def print_collections(collections: CollectionVerdict) -> None:
    """Print how many rows of indexes were compared with their collections, and what could not be compared."""
    if collections.num_rows:
        print(f"{collections.num_rows} rows of the index were compared with the collection, which was listed again")
    for kind, number in sorted(collections.passed_over.items()):
        print(f"  passed over: {number} {escape_controls(kind)}")
    for reason in collections.obstacles:
        print(f"the index was not compared with its collection: {escape_controls(reason)}")


def print_members(members: MemberCounts) -> None:
    """Print how many members the archives have, and what was passed over, by kind with an example."""
    if members.num:
        print(
            f"{members.num} members of archives: {members.num_in_rows} in rows, {members.num_passed_over} passed over"
        )
    for kind, entry in members.passed_over.items():
        print(f"  passed over: {entry.num} {escape_controls(kind)}, such as '{escape_controls(entry.example)}'")
    if members.num_unrecorded:
        print(
            f"the run has format version 2, which does not record the members that were passed over: those of "
            f"{members.num_unrecorded} shards "
            + ("were counted by this audit alone" if members.num else "are not known, leave out --footers-only")
        )
