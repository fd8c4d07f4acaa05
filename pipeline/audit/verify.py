"""Audit of a labelling run: each sample of each input is exactly one row.

run.json names the inputs and the listing the manifests. Each manifest is compared with its input, which is read again.
No count of the labelling job is taken for granted.

run.json, listing -> for each shard: footer, pages, rows, masks, and the samples of its input -> verdict
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.exceptions

from pipeline.audit.manifest_format import MANIFESTS_FOLDER, PARTS_FOLDER, locate_manifest, parse_chunk_index
from pipeline.audit.run import RunRecord, check_model, read_record
from pipeline.audit.shard import AuditRules, PublishedShard, verify_footer, verify_shard
from pipeline.audit.verdict import Check, Problem, Verdict, judge_shard
from pipeline.run.records import InputShard
from pipeline.storage.listing import list_folder, list_objects
from pipeline.storage.uris import join_uri

NUM_THREADS = 8
MAX_GROUPS_IN_FLIGHT = 2_000
"""Largest number of Ray tasks that wait or run at once."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Extent of an audit."""

    judge: Callable[[PublishedShard, AuditRules], Verdict]
    """Audit of one shard."""
    num_shards_in_process: int
    """Largest number of shards for which the audit is faster than the start of Ray."""
    num_shards_per_task: int


def judge_by_footer(item: PublishedShard, rules: AuditRules) -> Verdict:
    """Audit a shard by its footer alone."""
    return verify_footer(item, rules)


FULL = Depth(judge=verify_shard, num_shards_in_process=8, num_shards_per_task=1)
FOOTERS = Depth(judge=judge_by_footer, num_shards_in_process=500, num_shards_per_task=200)


@dataclass(frozen=True, kw_only=True)
class RunListing:
    """Listing of an output folder, compared with its run.json."""

    record: RunRecord
    published: tuple[PublishedShard, ...]
    verdict: Verdict
    """Problems of run.json and the listing: shards without manifest, foreign files."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the run."""
        return self.record.fingerprint

    def needs_ray(self, depth: Depth) -> bool:
        """True if the audit is too large for threads of this process."""
        return len(self.published) > depth.num_shards_in_process


def list_run(out_uri: str) -> RunListing:
    """List a run and compare it with its run.json.

    Raises:
        ManifestError: There is no run, or this version cannot read its run.json.
    """
    record = read_record(out_uri)
    shards = record.shards
    manifest_uris = {item.uri for item in list_folder(join_uri(out_uri, MANIFESTS_FOLDER))}
    published = tuple(
        PublishedShard(
            position=position,
            shard=shard,
            manifest_uri=uri,
            fingerprint=record.fingerprint,
            has_members=not record.members.is_old and not shard.is_parquet,
        )
        for position, shard in enumerate(shards)
        if (uri := locate_manifest(out_uri, shard.name)) in manifest_uris
    )
    foreign = manifest_uris - {item.manifest_uri for item in published}
    verdict = _judge_listing(out_uri, shards, {item.shard.name for item in published}, foreign)
    problems = [Problem(Check.CHANGED_RUN, 0, fault) for fault in record.faults]
    problems += [Problem(Check.CHANGED_EXTENSION, 0, fault) for fault in record.extension_faults]
    verdict = verdict.merge(judge_shard(-1, problems, is_input=False))
    return RunListing(record=record, published=published, verdict=verdict)


def judge_model(listing: RunListing) -> tuple[Verdict, str]:
    """Verdict on the model of run.json, and a reason why it could not be checked; empty if it was checked."""
    fault, obstacle = check_model(listing.record)
    problems = [Problem(Check.OTHER_MODEL, 0, fault)] if fault else []
    return judge_shard(-1, problems, is_input=False), obstacle


def _judge_listing(out_uri: str, shards: Sequence[InputShard], published: set[str], foreign: set[str]) -> Verdict:
    chunks: dict[str, list[int]] = {shard.name: [] for shard in shards}
    foreign = set(foreign)
    for item in list_objects(join_uri(out_uri, PARTS_FOLDER)):
        shard_name, file_name = item.uri.rsplit("/", 2)[-2:]
        chunk_index = parse_chunk_index(file_name)
        if chunk_index is None or shard_name not in chunks:
            foreign.add(item.uri)
        else:
            chunks[shard_name].append(chunk_index)
    verdict = Verdict()
    for position, shard in enumerate(shards):
        problems = list(_check_parts(shard.name, chunks[shard.name], is_published=shard.name in published))
        is_judged_here = shard.name not in published
        if problems or is_judged_here:
            verdict = verdict.merge(judge_shard(position, problems, is_input=is_judged_here))
    for position, uri in enumerate(sorted(foreign), start=len(shards)):
        verdict = verdict.merge(judge_shard(position, [Problem(Check.FOREIGN_FILE, 0, uri)], is_input=False))
    return verdict


def _check_parts(shard_name: str, chunk_indices: Sequence[int], *, is_published: bool) -> Iterator[Problem]:
    if is_published:
        if chunk_indices:
            yield Problem(Check.LEFTOVER_PARTS, 0, f"{shard_name}: {len(chunk_indices)} parts")
        return
    if not chunk_indices:
        yield Problem(Check.SHARD_NOT_BEGUN, 0, shard_name)
        return
    yield Problem(Check.SHARD_IN_PROGRESS, 0, f"{shard_name}: {len(chunk_indices)} parts")
    for chunk_index in sorted(index for index, number in Counter(chunk_indices).items() if number > 1):
        yield Problem(Check.RIVAL_PARTS, 0, f"{shard_name}: chunk {chunk_index}")


def verify_group(group: Sequence[PublishedShard], rules: AuditRules, depth: Depth) -> Verdict:
    """Audit some published shards."""
    verdict = Verdict()
    for item in group:
        verdict = verdict.merge(depth.judge(item, rules))
    return verdict


def verify_run(
    listing: RunListing,
    depth: Depth,
    *,
    sample_fraction: float = 1.0,
    on_progress: Callable[[Verdict], None] = lambda verdict: None,
) -> Verdict:
    """Audit a run: in threads if it is small, else as Ray tasks, for which Ray has to be connected.

    The driver keeps the listing, one sum, and a bounded number of tasks.

    Args:
        listing: Of the run.
        depth: Extent of the audit.
        sample_fraction: Share of the rows whose masks are decoded and whose images are read.
        on_progress: Called with each partial verdict.

    Raises:
        ray.exceptions.RayError: Ray failed, and there is no verdict.
    """
    rules = AuditRules(record=replace(listing.record, shards=()), sample_fraction=sample_fraction)
    size = depth.num_shards_per_task
    groups = [listing.published[start : start + size] for start in range(0, len(listing.published), size)]
    verify = _verify_with_ray if listing.needs_ray(depth) else _verify_in_threads
    total = listing.verdict
    for verdict in verify(groups, rules, depth):
        total = total.merge(verdict)
        on_progress(total)
    return total


def _verify_in_threads(
    groups: Sequence[Sequence[PublishedShard]], rules: AuditRules, depth: Depth
) -> Iterator[Verdict]:
    items = [item for group in groups for item in group]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield from threads.map(lambda item: verify_group([item], rules, depth), items)


def _verify_with_ray(groups: Sequence[Sequence[PublishedShard]], rules: AuditRules, depth: Depth) -> Iterator[Verdict]:
    # The types of Ray do not cover remote functions made this way.
    verify_remotely: Any = ray.remote(num_cpus=1)(verify_group)
    shared = ray.put(rules)
    pending: dict[Any, Sequence[PublishedShard]] = {}
    waiting = deque(groups)
    while pending or waiting:
        while waiting and len(pending) < MAX_GROUPS_IN_FLIGHT:
            group = waiting.popleft()
            pending[verify_remotely.remote(group, shared, depth)] = group
        (done, *_), _ = ray.wait(list(pending), num_returns=1)
        group = pending.pop(done)
        try:
            yield ray.get(done)
        except (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.RayTaskError,
        ) as error:
            # One shard ended its process. A process for each shard of the group shows which one.
            if len(group) > 1:
                waiting.extend([item] for item in group)
            else:
                yield _judge_dead_process(group[0], error)


def _judge_dead_process(item: PublishedShard, error: Exception) -> Verdict:
    text = " ".join(str(error).split())
    problem = Problem(Check.AUDIT_FAILED, 0, f"{item.shard.name}: the process that read it ended: {text}")
    return judge_shard(item.position, [problem])
