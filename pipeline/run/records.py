"""Records that flow between the steps: samples, chunks, and the Arrow schemas of parts and manifests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.run.config import IGNORE_LABEL as IGNORE_LABEL
from pipeline.storage.uris import holds_secret

PARQUET_SUFFIX = ".parquet"
INDEX_PREFIX = "index~"
"""Start of the names of index shards. No other shard has a `~` in its name: a file of strangers cannot pass as an
index, whose rows name the places that are read."""
INDEX_FOLDER = "inputs"
"""Folder below the output of a run that holds its index shards."""
RUN_FILE = "run.json"
"""File that marks the output folder of a labelling run."""


class Reason(StrEnum):
    """Why a sample has no mask. Its row stays in the manifest, with this in column `reason`."""

    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    NO_IMAGE = "no_image"
    BAD_TAGS = "bad_tags"
    DOWNLOAD_FAILED = "download_failed"
    NO_KNOWN_TAG = "no_known_tag"
    NOT_IN_TAGS_TABLE = "not_in_tags_table"
    DUPLICATE_KEY = "duplicate_key"
    SPLIT_SAMPLE = "split_sample"
    DOTTED_NAME = "dotted_name"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_FINITE = "not_finite"
    NOT_FOUND = "not_found"
    CHANGED = "changed"


class PassedOver(StrEnum):
    """Why a member of an archive is in no row."""

    DIRECTORY = "directory"
    SYMBOLIC_LINK = "symbolic_link"
    SPECIAL_FILE = "special_file"
    IN_HIDDEN_FOLDER = "in_hidden_folder"
    HIDDEN_FILE = "hidden_file"
    NO_SUFFIX = "no_suffix"
    SECOND_IMAGE = "second_image"
    SECOND_MEMBER = "second_member"
    DOTTED_IMAGE = "dotted_image"
    UNUSED_SUFFIX = "unused_suffix"
    TRUNCATED = "truncated"


class PassedCount(NamedTuple):
    """Members that were passed over for one reason."""

    num: int
    example: str
    """Name of the first one, cut to `MAX_EXAMPLE_LETTERS`."""


MAX_EXAMPLE_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class MemberCounts:
    """Numbers of members of an archive, or of a span of it."""

    num: int = 0
    """All members, in rows or not."""
    passed_over: Mapping[PassedOver, PassedCount] = field(default_factory=dict, hash=False)
    """Members that are in no row, by kind; without kinds that do not occur."""

    def merge(self, later: "MemberCounts") -> "MemberCounts":
        """Add the counts of a later span, in any grouping; the first example stays."""
        if not later.passed_over:
            return MemberCounts(num=self.num + later.num, passed_over=self.passed_over)
        passed = dict(self.passed_over)
        for kind, count in later.passed_over.items():
            before = passed.get(kind, PassedCount(0, count.example))
            passed[kind] = PassedCount(before.num + count.num, before.example)
        return MemberCounts(num=self.num + later.num, passed_over=passed)

    def describe(self) -> dict[str, Any]:
        """Convert the counts to plain values for JSON."""
        passed = {str(kind): count._asdict() for kind, count in sorted(self.passed_over.items())}
        return {"num": self.num, "passed_over": passed}

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "MemberCounts":
        """Parse counts from the plain values of `describe`.

        Raises:
            KeyError, TypeError, ValueError: They are other values.
        """
        passed = {PassedOver(kind): PassedCount(**count) for kind, count in fields["passed_over"].items()}
        return cls(num=fields["num"], passed_over=passed)


def merge_members(counts: Iterable[MemberCounts | None]) -> MemberCounts | None:
    """Add the counts of spans, in their order; None if none has any."""
    known = [one for one in counts if one is not None]
    return reduce(MemberCounts.merge, known) if known else None


class Status(StrEnum):
    """Whether a sample has a mask."""

    LABELLED = "labelled"
    REJECTED = "rejected"


@dataclass(frozen=True, kw_only=True)
class InputShard:
    """An input shard as listed."""

    uri: str
    name: str
    """Base name without suffix; unique in the run and valid as the name of a folder."""
    size_bytes: int
    etag: str
    """Changes when the content changes: the store's etag, or size and modification time on a local disk."""

    @property
    def is_parquet(self) -> bool:
        """Whether offsets into the shard are row numbers; in a tar they are bytes."""
        return self.uri.lower().endswith(PARQUET_SUFFIX)

    @property
    def is_index(self) -> bool:
        """Whether the shard is an index, whose rows name images that lie elsewhere."""
        return self.name.startswith(INDEX_PREFIX)


@dataclass(frozen=True, kw_only=True)
class TagEdit:
    """Correction of the classes that the tags of a sample name, by a reviewer."""

    removed: frozenset[int] = frozenset()
    """Ids of the classes that a tag names and the image does not show."""
    added: frozenset[int] = frozenset()
    """Ids of the classes that no tag names and the image shows."""

    def apply(self, class_ids: Iterable[int]) -> tuple[int, ...]:
        """Correct the classes of a sample."""
        return tuple(sorted((set(class_ids) - self.removed) | self.added))

    def follow(self, earlier: "TagEdit") -> "TagEdit":
        """Join an earlier correction and this one, which counts where they differ."""
        return TagEdit(
            removed=(earlier.removed - self.added) | self.removed, added=(earlier.added - self.removed) | self.added
        )

    def describe(self) -> list[list[int]]:
        """Convert to plain values for JSON: the removed ids, then the added ones."""
        return [sorted(self.removed), sorted(self.added)]


@dataclass(kw_only=True, slots=True)
class Sample:
    """The members of an archive that share a key, still encoded.

    Readers make millions of them: a frozen one takes three times as long to make.
    """

    key: str
    image: bytes | memoryview | None = None
    """Encoded image; None when the sample has none. A view holds the memory of several images of its chunk."""
    image_name: str = ""
    """Suffix of the image's member, such as `jpg`; empty without an image."""
    image_bytes: int = 0
    """Size of the encoded image, whether it was read or not."""
    image_offset: int | None = None
    """Where the encoded image is in its shard: bytes of a tar, rows of a Parquet file; None elsewhere."""
    image_uri: str = ""
    """URI of an image that is a file of its own; empty for others."""
    image_error: str = ""
    """Why an image was not read: it is too large, or not where it should be; empty if it was read."""
    image_reason: str = ""
    """Reason that belongs to `image_error`; empty for too_large."""
    no_image_error: str = ""
    """Why there is no image: what the sample has in its place; empty if that is not known."""
    no_tags_error: str = ""
    """Why there are no tags: what the sample has in their place; empty if that is not known, or if there are some."""
    dotted_name_error: str = ""
    """Why the sample is only a part of what its name stands for; empty if it is whole."""
    tags: tuple[str, ...] = ()
    class_numbers: tuple[int, ...] = ()
    """Numbers in place of tags, as written: places in the vocabulary, from `InputConfig.first_class_number`."""
    tags_error: str = ""
    """Why the tags could not be read; empty if they could."""
    has_tags_row: bool = True
    """False if the run takes its tags from a table that has no row of this key."""
    removed_class_ids: tuple[int, ...] = ()
    """Classes that are taken away from those of the tags, and `added_class_ids` those that are added: a `TagEdit`."""
    added_class_ids: tuple[int, ...] = ()
    download_error: str = ""
    """The downloader's own reason for a missing image; empty if it recorded none."""
    is_continuation: bool = False
    """True if the key also occurred earlier in the archive, not adjacent to these members."""

    def locate_image(self) -> dict[str, Any]:
        """Columns that lead from a row to its encoded image; null what is not known, and a URI that holds a secret."""
        # Of a file of its own only the size of a listing is known before it is read.
        num_bytes = None if self.image_offset is None else self.image_bytes
        return {
            "image_offset": self.image_offset,
            "image_bytes": num_bytes if self.image is None else len(self.image),
            "image_uri": self.image_uri if self.image_uri and not holds_secret(self.image_uri) else None,
        }


def describe_oversized_image(num_bytes: int, limit: int) -> str:
    """Error text of an encoded image that exceeds the limit of the run."""
    return f"the image has {num_bytes} bytes, limit {limit} (--inputs.max-image-bytes)"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A run of samples of a shard: the unit of work, of commit and of loss."""

    index: int
    end_offset: int
    """Where the next sample starts: bytes of a tar, rows of a Parquet file."""
    samples: tuple[Sample, ...]
    members: MemberCounts | None = None
    """Members of the archive from the end of the previous chunk to the end of this one; None for Parquet files."""


@dataclass(frozen=True, kw_only=True)
class ShardEnd:
    """What is known of a shard once its last sample was read. Follows the last chunk."""

    num_chunks: int
    truncated_at: int | None = None
    """Byte at which the archive is truncated; None if it is complete."""
    members: MemberCounts | None = None
    """Members of the archive behind the last chunk; None for Parquet files."""


CLASS_STATS = pa.struct(
    [
        pa.field("class_id", pa.int16(), nullable=False),
        ("presence", pa.float32()),
        ("presence_std", pa.float32()),
        ("raw_peak", pa.float32()),
        ("area_fraction", pa.float32()),
        ("confidence_mean", pa.float32()),
        ("stability", pa.float32()),
        ("view_agreement", pa.float32()),
        ("head_agreement", pa.float32()),
        ("components", pa.int32()),
    ]
)

CLASS_MAPS = pa.struct(
    [
        ("height", pa.int16()),
        ("width", pa.int16()),
        ("scales", pa.list_(pa.float32())),
        ("values", pa.binary()),
    ]
)
"""Refined maps on the patch grid of the upright image, one per entry of `class_ids`, in that order.

`values` holds uint8, class by class, row by row; a map is `values / 255` after min-max per class, and its
value before min-max was at most `scales[i]`. Resize bilinearly to the upright image to use them.
"""

MASK = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

CLASS_IDS = pa.list_(pa.int64())
"""Of 64 bits, as Hugging Face's ClassLabel is: other integers get no names there."""

PLACE_FIELDS = (
    pa.field("image_offset", pa.int64()),
    pa.field("image_bytes", pa.int64()),
    pa.field("image_uri", pa.string()),
)
"""Where the encoded image is: from `Sample.locate_image`. All null in masks of maps that a version before 5 kept."""
PLACE_COLUMNS = tuple(field.name for field in PLACE_FIELDS)

PART_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("reason", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("exif_orientation", pa.int8()),
        ("image_sha256", pa.string()),
        ("tags_unknown", pa.list_(pa.string())),
        ("class_ids", CLASS_IDS),
        ("mask", MASK),
        ("quality", pa.float32()),
        ("ignore_fraction", pa.float32()),
        ("background_fraction", pa.float32()),
        ("margin_mean", pa.float32()),
        ("entropy_mean", pa.float32()),
        ("suggested_class_ids", CLASS_IDS),
        ("doubtful_class_ids", CLASS_IDS),
        ("classes", pa.list_(CLASS_STATS)),
        ("class_maps", CLASS_MAPS),
        *PLACE_FIELDS,
    ]
)
"""One row per sample, in the shard's order. `class_maps` is null unless the run keeps maps."""

MANIFEST_SCHEMA = PART_SCHEMA.insert(1, pa.field("index", pa.int64(), nullable=False)).insert(
    2, pa.field("shard", pa.string(), nullable=False)
)
"""The parts of a shard in order; `index`, the sample's zero-based position in its shard; and the shard's URI."""
