"""Survey of the shards of a training run: images per class, unknown tags, unusable samples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, TypeVar

import numpy as np
import ray
from jaxtyping import UInt64
from pydantic import Field
from typing_extensions import TypedDict

from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks, require_unchanged
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Reason, Sample, ShardEnd
from pipeline.run.vocabulary import Vocabulary
from pipeline.workers.attempts import AttemptCounter, Attempts
from pipeline.workers.guarded_reads import read_guarded
from pipeline.workers.shared_state import SharedAttempts

Result = TypeVar("Result")

MAX_SURVEY_TASKS = 1000
MAX_RETRIES = 20
"""Retries of a task whose process died; more than `read_guarded` needs to find the shard that kills it."""
MOST_SHARED_KEYS = 5
"""Keys of shared samples that a survey names."""
MOST_NAMED_TAGS = 8
"""Unknown tags that a message names."""


class SurveyFields(TypedDict):
    """A survey as plain values."""

    num_samples: int
    num_usable: int
    unusable: dict[str, int]
    images_per_class: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], int]
    unknown_tags: dict[str, int]
    num_truncated_shards: int
    usable_per_shard: dict[str, int]
    num_shared: int
    shared_keys: list[str]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Counts of the samples of some shards; the sum of two surveys is the survey of both."""

    num_samples: int = 0
    num_usable: int = 0
    """Samples with an image and a known tag; the image may still fail to decode."""
    unusable: Counter[str] = field(default_factory=Counter)
    """Unusable samples by reason."""
    images_per_class: Counter[int] = field(default_factory=Counter)
    """By class id, 1..C."""
    unknown_tags: Counter[str] = field(default_factory=Counter)
    num_truncated_shards: int = 0
    usable_per_shard: dict[str, int] = field(default_factory=dict)
    """Usable samples by the shard's name."""
    num_shared: int = 0
    """Usable samples whose key is also that of a validation sample."""
    shared_keys: tuple[str, ...] = ()
    """The first `MOST_SHARED_KEYS` of their keys."""

    def list_images_per_class(self, num_classes: int) -> tuple[int, ...]:
        """Images of each class, in the order of the vocabulary."""
        return tuple(self.images_per_class[class_id] for class_id in range(1, num_classes + 1))

    def describe(self) -> SurveyFields:
        """Convert to plain values for JSON."""
        return {
            "num_samples": self.num_samples,
            "num_usable": self.num_usable,
            "unusable": dict(self.unusable),
            "images_per_class": {str(key): num for key, num in self.images_per_class.items()},
            "unknown_tags": dict(self.unknown_tags),
            "num_truncated_shards": self.num_truncated_shards,
            "usable_per_shard": self.usable_per_shard,
            "num_shared": self.num_shared,
            "shared_keys": list(self.shared_keys),
        }

    @classmethod
    def restore(cls, fields: SurveyFields) -> "Survey":
        """Convert from the plain values of `describe`."""
        return cls(
            num_samples=fields["num_samples"],
            num_usable=fields["num_usable"],
            unusable=Counter(fields["unusable"]),
            images_per_class=Counter({int(key): number for key, number in fields["images_per_class"].items()}),
            unknown_tags=Counter(fields["unknown_tags"]),
            num_truncated_shards=fields["num_truncated_shards"],
            usable_per_shard=dict(fields["usable_per_shard"]),
            num_shared=fields["num_shared"],
            shared_keys=tuple(fields["shared_keys"]),
        )

    def __add__(self, other: "Survey") -> "Survey":
        """Add the counts."""
        return Survey(
            num_samples=self.num_samples + other.num_samples,
            num_usable=self.num_usable + other.num_usable,
            unusable=self.unusable + other.unusable,
            images_per_class=self.images_per_class + other.images_per_class,
            unknown_tags=self.unknown_tags + other.unknown_tags,
            num_truncated_shards=self.num_truncated_shards + other.num_truncated_shards,
            usable_per_shard=self.usable_per_shard | other.usable_per_shard,
            num_shared=self.num_shared + other.num_shared,
            shared_keys=(self.shared_keys + other.shared_keys)[:MOST_SHARED_KEYS],
        )


def find_unusable_reason(sample: Sample, class_ids: Sequence[int]) -> Reason | None:
    """Reason why a sample cannot be trained on; None if it can."""
    if sample.is_continuation:
        return Reason.SPLIT_SAMPLE
    if sample.dotted_name_error:
        return Reason.DOTTED_NAME
    if sample.download_error:
        return Reason.DOWNLOAD_FAILED
    if sample.image_error:
        return Reason(sample.image_reason or Reason.TOO_LARGE)
    if sample.image is None:
        return Reason.NO_IMAGE
    if not sample.has_tags_row:
        return Reason.NOT_IN_TAGS_TABLE
    if sample.tags_error:
        return Reason.BAD_TAGS
    return None if class_ids else Reason.NO_KNOWN_TAG


def digest_key(key: str) -> int:
    """Compute a 64-bit digest of a key: a billion keys need 8 GB, and collisions are improbable."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _read_pieces(shard: InputShard, inputs: InputConfig, attempts: Attempts | None) -> Iterator[Chunk | ShardEnd]:
    return read_guarded(shard.uri, partial(read_chunks, shard, inputs), attempts or AttemptCounter())


def digest_keys(
    shards: Sequence[InputShard], inputs: InputConfig, attempts: Attempts | None = None
) -> UInt64[np.ndarray, " n"]:
    """Collect the digests of all keys of shards.

    Args:
        shards: Read completely.
        inputs: Settings of reading.
        attempts: Counts the processes that died with a shard; None: there are no other processes.

    Raises:
        ShardError: A shard cannot be read.
    """
    digests = {
        digest_key(sample.key)
        for shard in shards
        for piece in _read_pieces(shard, inputs, attempts)
        if isinstance(piece, Chunk)
        for sample in piece.samples
    }
    return np.fromiter(digests, np.uint64, len(digests))


def survey_shards(
    shards: Sequence[InputShard],
    vocabulary: Vocabulary,
    inputs: InputConfig,
    validation_digests: UInt64[np.ndarray, " n"] | None = None,
    attempts: Attempts | None = None,
) -> Survey:
    """Survey shards.

    Args:
        shards: Read completely.
        vocabulary: Maps tags to classes.
        inputs: Settings of reading.
        validation_digests: Of the keys of the validation samples, which training samples should not have.
        attempts: Counts the processes that died with a shard; None: there are no other processes.

    Raises:
        ShardError: A shard cannot be read.
    """
    unusable, images_per_class, unknown_tags = Counter[str](), Counter[int](), Counter[str]()
    usable_per_shard: dict[str, int] = {}
    num_truncated = num_shared = 0
    shared_keys: list[str] = []
    forbidden = frozenset() if validation_digests is None else frozenset(validation_digests.tolist())
    for shard in shards:
        num_usable = 0
        require_unchanged(shard)
        for piece in _read_pieces(shard, inputs, attempts):
            if not isinstance(piece, Chunk):
                num_truncated += piece.truncated_at is not None
                continue
            for sample in piece.samples:
                matched = vocabulary.match(sample.tags, sample.class_numbers, first_number=inputs.first_class_number)
                unknown_tags.update(matched.unknown)
                reason = find_unusable_reason(sample, matched.class_ids)
                if reason:
                    unusable[reason.value] += 1
                else:
                    num_usable += 1
                    images_per_class.update(matched.class_ids)
                    if forbidden and digest_key(sample.key) in forbidden:
                        num_shared += 1
                        shared_keys += [sample.key] * (len(shared_keys) < MOST_SHARED_KEYS)
        usable_per_shard[shard.name] = num_usable
    total = sum(usable_per_shard.values())
    return Survey(
        num_samples=total + unusable.total(),
        num_usable=total,
        unusable=unusable,
        images_per_class=images_per_class,
        unknown_tags=unknown_tags,
        num_truncated_shards=num_truncated,
        usable_per_shard=usable_per_shard,
        num_shared=num_shared,
        shared_keys=tuple(shared_keys),
    )


def survey_splits(
    train: Sequence[InputShard], validation: Sequence[InputShard], vocabulary: Vocabulary, inputs: InputConfig
) -> dict[str, Survey]:
    """Survey the shards of both splits, in parallel tasks on the connected Ray.

    Raises:
        ShardError: A shard cannot be read.
    """
    attempts = SharedAttempts()
    digests = list(_map_on_ray(digest_keys, validation, inputs, attempts))
    forbidden = ray.put(np.unique(np.concatenate(digests))) if digests else None
    return {
        "train": sum(_map_on_ray(survey_shards, train, vocabulary, inputs, forbidden, attempts), Survey()),
        "validation": sum(_map_on_ray(survey_shards, validation, vocabulary, inputs, None, attempts), Survey()),
    }


def require_usable(survey: Survey, vocabulary: Vocabulary) -> None:
    """Check that training has at least one usable sample.

    Raises:
        ValueError: It has none; the message names the reasons and the most frequent unknown tags.
    """
    if survey.num_usable:
        return
    unknown = ", ".join(tag for tag, _ in survey.unknown_tags.most_common(MOST_NAMED_TAGS)) or "none"
    reasons = ", ".join(f"{reason} {number}" for reason, number in survey.unusable.most_common()) or "no samples"
    raise ValueError(
        f"none of the {survey.num_samples} training samples can be used ({reasons}); their most frequent tags: "
        f"{unknown}; the vocabulary has {', '.join(vocabulary.classes)}; use one that fits these shards"
    )


def _map_on_ray(function: Callable[..., Result], shards: Sequence[InputShard], *arguments: object) -> Iterator[Result]:
    """Call a function on groups of shards in parallel Ray tasks; yield its results in order."""
    task = ray.remote(function).options(num_cpus=0.5, max_retries=MAX_RETRIES, retry_exceptions=False)
    pending = [task.remote(group, *arguments) for group in group_evenly(shards, MAX_SURVEY_TASKS)]
    try:
        for reference in pending:
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ShardError):
            raise error.cause from error
        raise


def group_evenly(shards: Sequence[InputShard], num_groups: int) -> list[tuple[InputShard, ...]]:
    """Deal shards to at most `num_groups` groups of nearly equal size, none of them empty."""
    num_groups = min(num_groups, len(shards))
    return [tuple(shards[start::num_groups]) for start in range(num_groups)]
