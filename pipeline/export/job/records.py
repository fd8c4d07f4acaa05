"""Records of exported shards, in `export/` below the folder of the export.

    SHARD.DIGEST.jsonl   what joint files need, a line a sample
    SHARD.DIGEST.files   paths of the files of the shard, a line each
    SHARD.DIGEST.json    counts; it is written last, and commits the shard

The digest is that of the listed manifest: a shard that was labelled again is exported again.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.commit.names import locate_manifest
from pipeline.commit.plan import Plan, ShardWork
from pipeline.errors import ManifestError
from pipeline.export.job.identity import Export
from pipeline.run.fingerprint import hash_uri
from pipeline.run.records import InputShard
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import open_stream, read_bytes
from pipeline.storage.uris import join_uri

RECORDS_FOLDER = "export"
NUM_THREADS = 16
BLOCK_BYTES = 2**20
COMMIT, ENTRIES, FILES = ".json", ".jsonl", ".files"


@dataclass(frozen=True, kw_only=True)
class ShardItem:
    """A published shard to export."""

    shard: InputShard
    place: int
    """Place of the shard in the run, from 0."""
    stem: str
    """Start of the names of its records."""

    def locate(self, out_uri: str, suffix: str) -> str:
        """URI of one of its records."""
        return join_uri(out_uri, RECORDS_FOLDER, self.stem + suffix)


def list_items(export: Export) -> list[ShardItem]:
    """List the published shards of a run, in its order."""
    listed = {item.uri.rsplit("/", 1)[-1]: item for item in list_folder(join_uri(export.run.uri, "labels"))}
    places = {str(recorded[1]): place for place, recorded in enumerate(export.run.record["inputs"])}
    items = []
    for shard in export.run.shards:
        name = locate_manifest("", shard.name).rsplit("/", 1)[-1]
        if found := listed.get(name):
            stem = f"{shard.name}.{hash_uri(f'{found.size_bytes} {found.etag}')}"
            items.append(ShardItem(shard=shard, place=places[shard.name], stem=stem))
    return items


def list_records(out_uri: str) -> set[str]:
    """List the names of all records of exported shards."""
    return {item.uri.rsplit("/", 1)[-1] for item in list_folder(join_uri(out_uri, RECORDS_FOLDER))}


def plan_export(export: Export, limit: int | None = None) -> Plan:
    """Find what remains of the first `limit` shards (None: of all), from two listings."""
    records = list_records(export.out_uri)
    items = list_items(export)[:limit]
    sealed = tuple(item.shard for item in items if item.stem + COMMIT in records)
    work = tuple(ShardWork(shard=item.shard) for item in items if item.stem + COMMIT not in records)
    return Plan(
        work=work,
        sealed=sealed,
        num_bytes=sum(item.shard.size_bytes for item in items),
        num_bytes_done=sum(shard.size_bytes for shard in sealed),
        leftover_parts=(),
    )


@dataclass(kw_only=True)
class ShardCounts:
    """Counts of exported rows of a shard, or of several."""

    num_read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows by the filter that left them out."""
    images: Counter[str] = field(default_factory=Counter)
    """Exported rows by split."""
    pixels: dict[str, Counter[int]] = field(default_factory=dict)
    """Pixels by split and mask value."""
    labelled_of_class: Counter[int] = field(default_factory=Counter)
    """Labelled rows by class of their tags."""
    num_corrected: int = 0
    """Exported rows with a corrected mask."""
    exported_of_class: Counter[int] = field(default_factory=Counter)
    """Exported rows by class of their tags."""

    @property
    def num_exported(self) -> int:
        """Number of exported rows."""
        return self.images.total()

    def add(self, other: "ShardCounts") -> None:
        """Add the counts of other rows."""
        self.num_read += other.num_read
        self.num_corrected += other.num_corrected
        self.left_out.update(other.left_out)
        self.images.update(other.images)
        for split, pixels in other.pixels.items():
            self.pixels.setdefault(split, Counter()).update(pixels)
        self.labelled_of_class.update(other.labelled_of_class)
        self.exported_of_class.update(other.exported_of_class)

    def describe(self) -> dict[str, Any]:
        """Convert the counts to plain values for JSON."""
        return {
            "num_read": self.num_read,
            "num_corrected": self.num_corrected,
            "left_out": dict(sorted(self.left_out.items())),
            "images": dict(sorted(self.images.items())),
            "pixels": {split: _list_pairs(counts) for split, counts in sorted(self.pixels.items())},
            "labelled_of_class": _list_pairs(self.labelled_of_class),
            "exported_of_class": _list_pairs(self.exported_of_class),
        }

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "ShardCounts":
        """Parse counts from the plain values of `describe`.

        Raises:
            KeyError, TypeError, ValueError: They are other values.
        """
        return cls(
            num_read=int(fields["num_read"]),
            num_corrected=int(fields["num_corrected"]),
            left_out=Counter(fields["left_out"]),
            images=Counter(fields["images"]),
            pixels={split: Counter(dict(pairs)) for split, pairs in fields["pixels"].items()},
            labelled_of_class=Counter(dict(fields["labelled_of_class"])),
            exported_of_class=Counter(dict(fields["exported_of_class"])),
        )


def _list_pairs(counts: Counter[int]) -> list[list[int]]:
    return [[value, num] for value, num in sorted(counts.items()) if num]


def read_counts(out_uri: str, item: ShardItem) -> ShardCounts:
    """Read the counts of an exported shard.

    Raises:
        FileNotFoundError: The shard is not exported.
        ManifestError: Its record is damaged.
    """
    uri = item.locate(out_uri, COMMIT)
    try:
        return ShardCounts.parse(json.loads(read_bytes(uri)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"'{uri}' holds no counts of an exported shard; delete it and run again") from error


def sum_counts(out_uri: str, items: list[ShardItem]) -> ShardCounts:
    """Add the counts of exported shards.

    Raises:
        ManifestError: A record is damaged.
    """
    total = ShardCounts()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for counts in threads.map(partial(read_counts, out_uri), items):
            total.add(counts)
    return total


def read_entries(out_uri: str, items: list[ShardItem]) -> Iterator[Mapping[str, Any]]:
    """Read what joint files need of each sample, in the order of shards and samples.

    Raises:
        ManifestError: A record is damaged.
    """
    for item in items:
        uri = item.locate(out_uri, ENTRIES)
        for line in _read_lines(uri):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ManifestError(f"'{uri}' is damaged; delete the records of its shard and run again") from error


def read_paths(out_uri: str, stem: str) -> list[str]:
    """Read the paths of the files of an exported shard; none if it was not exported to its end."""
    try:
        listed = read_bytes(join_uri(out_uri, RECORDS_FOLDER, stem + FILES))
    except FileNotFoundError:
        return []
    return listed.decode().splitlines()


def _read_lines(uri: str) -> Iterator[bytes]:
    with closing(open_stream(uri)) as stream:
        rest = b""
        while block := stream.read(BLOCK_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
        if rest:
            yield rest
