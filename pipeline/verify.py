"""Proof from the outside that the books of a labelling run balance: every sample of every input is a row, once.

run.json says what was to be labelled, the listing what is published; each manifest is then held against its
input, which is read anew. Nothing that the labelling job remembered or counted is believed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.commit import PartName, locate_manifest, parse_part_name
from pipeline.config import InputConfig
from pipeline.errors import ManifestError
from pipeline.records import InputShard
from pipeline.run import RUN_FILE, read_run
from pipeline.shard_audit import PublishedShard, verify_footer, verify_shard
from pipeline.storage import join_uri, list_folder, list_objects
from pipeline.verdict import Check, Problem, Verdict, judge_shard

NUM_THREADS = 8
MAX_GROUPS_IN_FLIGHT = 2_000
"""Ray tasks that may wait or run at once; the driver makes no more before some come back."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How much of a run is read."""

    reads_rows: bool
    """False: footers only."""
    num_shards_in_process: int
    """Up to so many shards, starting Ray takes longer than the audit."""
    num_shards_per_task: int


FULL = Depth(reads_rows=True, num_shards_in_process=8, num_shards_per_task=1)
FOOTERS = Depth(reads_rows=False, num_shards_in_process=500, num_shards_per_task=200)


@dataclass(frozen=True, kw_only=True)
class RunListing:
    """What an output folder holds, against what its run.json promises."""

    fingerprint: str
    inputs: InputConfig
    published: tuple[PublishedShard, ...]
    verdict: Verdict
    """What the listing alone shows: shards without manifest, files that do not belong."""

    def needs_ray(self, depth: Depth) -> bool:
        """Tell whether the audit is too large for threads of this process."""
        return len(self.published) > depth.num_shards_in_process


def list_run(out_uri: str) -> RunListing:
    """List a run once and hold it against its run.json.

    Raises:
        ManifestError: There is no run, or run.json is not of this version's making.
    """
    record = read_run(out_uri)
    try:
        shards = [
            InputShard(uri=uri, name=name, size_bytes=size, etag=etag) for uri, name, size, etag in record["inputs"]
        ]
        inputs = InputConfig(**record["config"]["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        uri = join_uri(out_uri, RUN_FILE)
        raise ManifestError(
            f"'{uri}' cannot be understood: {error}; use the version of tagmask that wrote it"
        ) from error
    manifest_uris = {item.uri for item in list_folder(join_uri(out_uri, "labels"))}
    published = tuple(
        PublishedShard(position=position, shard=shard, manifest_uri=uri, fingerprint=record["fingerprint"])
        for position, shard in enumerate(shards)
        if (uri := locate_manifest(out_uri, shard.name)) in manifest_uris
    )
    foreign = manifest_uris - {item.manifest_uri for item in published}
    verdict = _judge_listing(out_uri, shards, {item.shard.name for item in published}, foreign)
    return RunListing(fingerprint=record["fingerprint"], inputs=inputs, published=published, verdict=verdict)


def _judge_listing(out_uri: str, shards: Sequence[InputShard], published: set[str], foreign: set[str]) -> Verdict:
    parts: dict[str, list[PartName]] = {shard.name: [] for shard in shards}
    foreign = set(foreign)
    for item in list_objects(join_uri(out_uri, "parts")):
        shard_name, file_name = item.uri.rsplit("/", 2)[-2:]
        try:
            parts[shard_name].append(parse_part_name(file_name))
        except (KeyError, ManifestError):
            foreign.add(item.uri)
    verdict = Verdict()
    for position, shard in enumerate(shards):
        problems = list(_check_parts(shard.name, parts[shard.name], is_published=shard.name in published))
        is_judged_here = shard.name not in published
        if problems or is_judged_here:
            verdict = verdict.merge(judge_shard(position, problems, is_input=is_judged_here))
    for position, uri in enumerate(sorted(foreign), start=len(shards)):
        verdict = verdict.merge(judge_shard(position, [Problem(Check.FOREIGN_FILE, 0, uri)], is_input=False))
    return verdict


def _check_parts(shard_name: str, parts: Sequence[PartName], *, is_published: bool) -> Iterator[Problem]:
    if is_published:
        if parts:
            yield Problem(Check.LEFTOVER_PARTS, 0, f"{shard_name}: {len(parts)} parts")
        return
    if not parts:
        yield Problem(Check.SHARD_NOT_BEGUN, 0, shard_name)
        return
    yield Problem(Check.SHARD_IN_PROGRESS, 0, f"{shard_name}: {len(parts)} parts")
    times = Counter(part.chunk_index for part in parts)
    for chunk_index in sorted(index for index, number in times.items() if number > 1):
        yield Problem(Check.RIVAL_PARTS, 0, f"{shard_name}: chunk {chunk_index}")


def verify_group(group: Sequence[PublishedShard], inputs: InputConfig, depth: Depth) -> Verdict:
    """Judge some published shards."""
    verdict = Verdict()
    for item in group:
        verdict = verdict.merge(verify_shard(item, inputs) if depth.reads_rows else verify_footer(item))
    return verdict


def verify_run(
    listing: RunListing, depth: Depth, *, on_progress: Callable[[Verdict], None] = lambda verdict: None
) -> Verdict:
    """Judge a whole run: in threads when it is small, else as Ray tasks, for which Ray has to be connected.

    The driver keeps the listing, one total, and a bounded number of tasks.

    Raises:
        ray.exceptions.RayError: Ray failed; nothing is known of the run.
    """
    size = depth.num_shards_per_task
    groups = [listing.published[start : start + size] for start in range(0, len(listing.published), size)]
    verify = _verify_with_ray if listing.needs_ray(depth) else _verify_in_threads
    total = listing.verdict
    for verdict in verify(groups, listing.inputs, depth):
        total = total.merge(verdict)
        on_progress(total)
    return total


def _verify_in_threads(
    groups: Sequence[Sequence[PublishedShard]], inputs: InputConfig, depth: Depth
) -> Iterator[Verdict]:
    items = [item for group in groups for item in group]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield from threads.map(lambda item: verify_group([item], inputs, depth), items)


def _verify_with_ray(
    groups: Sequence[Sequence[PublishedShard]], inputs: InputConfig, depth: Depth
) -> Iterator[Verdict]:
    # Ray's types know no remote functions made this way.
    verify_remotely: Any = ray.remote(num_cpus=1)(verify_group)
    pending: list[Any] = []
    for group in groups:
        if len(pending) >= MAX_GROUPS_IN_FLIGHT:
            done, pending = ray.wait(pending, num_returns=1)
            yield ray.get(done[0])
        pending.append(verify_remotely.remote(group, inputs, depth))
    while pending:
        done, pending = ray.wait(pending, num_returns=1)
        yield ray.get(done[0])
