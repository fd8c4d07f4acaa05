"""What the shards of a training run hold: images per class, unknown tags, samples that cannot be used."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.config import InputConfig
from pipeline.errors import ShardError
from pipeline.records import Chunk, InputShard, Reason, Sample
from pipeline.shards import read_chunks, require_unchanged
from pipeline.vocabulary import Vocabulary

MAX_SURVEY_TASKS = 1000


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What some shards hold, as far as training is concerned. Surveys add up."""

    num_samples: int = 0
    num_usable: int = 0
    """Samples with an image and a known tag. Whether the image can be decoded is not known yet."""
    unusable: Counter[str] = field(default_factory=Counter)
    """Why samples are not usable."""
    images_per_class: Counter[int] = field(default_factory=Counter)
    """By class id, 1..C."""
    unknown_tags: Counter[str] = field(default_factory=Counter)
    num_truncated_shards: int = 0
    usable_per_shard: dict[str, int] = field(default_factory=dict)
    """By the shard's name."""

    def describe(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "num_samples": self.num_samples,
            "num_usable": self.num_usable,
            "unusable": dict(self.unusable),
            "images_per_class": {str(key): num for key, num in self.images_per_class.items()},
            "unknown_tags": dict(self.unknown_tags),
            "num_truncated_shards": self.num_truncated_shards,
            "usable_per_shard": self.usable_per_shard,
        }

    @classmethod
    def restore(cls, fields: dict[str, Any]) -> "Survey":
        """Make a survey from what `describe` returned."""
        return cls(
            num_samples=fields["num_samples"],
            num_usable=fields["num_usable"],
            unusable=Counter(fields["unusable"]),
            images_per_class=Counter({int(key): num for key, num in fields["images_per_class"].items()}),
            unknown_tags=Counter(fields["unknown_tags"]),
            num_truncated_shards=fields["num_truncated_shards"],
            usable_per_shard=dict(fields["usable_per_shard"]),
        )

    def __add__(self, other: "Survey") -> "Survey":
        """Count both."""
        return Survey(
            num_samples=self.num_samples + other.num_samples,
            num_usable=self.num_usable + other.num_usable,
            unusable=self.unusable + other.unusable,
            images_per_class=self.images_per_class + other.images_per_class,
            unknown_tags=self.unknown_tags + other.unknown_tags,
            num_truncated_shards=self.num_truncated_shards + other.num_truncated_shards,
            usable_per_shard=self.usable_per_shard | other.usable_per_shard,
        )


def find_unusable_reason(sample: Sample, class_ids: Sequence[int]) -> Reason | None:
    """Say why a sample cannot be trained on; None when it can."""
    if sample.is_continuation:
        return Reason.SPLIT_SAMPLE
    if sample.download_error:
        return Reason.DOWNLOAD_FAILED
    if sample.image is None:
        return Reason.NO_IMAGE
    if sample.tags_error:
        return Reason.BAD_TAGS
    return None if class_ids else Reason.NO_KNOWN_TAG


def survey_shards(shards: Sequence[InputShard], vocabulary: Vocabulary, inputs: InputConfig) -> Survey:
    """Count what shards hold; reads all of them.

    Raises:
        ShardError: A shard cannot be read.
    """
    unusable, images_per_class, unknown_tags = Counter[str](), Counter[int](), Counter[str]()
    usable_per_shard: dict[str, int] = {}
    num_truncated = 0
    for shard in shards:
        num_usable = 0
        require_unchanged(shard)
        for piece in read_chunks(shard, inputs):
            if not isinstance(piece, Chunk):
                num_truncated += piece.truncated_at is not None
                continue
            for sample in piece.samples:
                matched = vocabulary.match(sample.tags, sample.class_numbers)
                unknown_tags.update(matched.unknown)
                reason = find_unusable_reason(sample, matched.class_ids)
                if reason:
                    unusable[reason.value] += 1
                else:
                    num_usable += 1
                    images_per_class.update(matched.class_ids)
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
    )


def survey_on_ray(shards: Sequence[InputShard], vocabulary: Vocabulary, inputs: InputConfig) -> Survey:
    """Count what shards hold, in parallel tasks on the connected Ray.

    Raises:
        ShardError: A shard cannot be read.
    """
    survey_task = ray.remote(survey_shards).options(num_cpus=0.5, retry_exceptions=False)
    pending = [survey_task.remote(group, vocabulary, inputs) for group in group_evenly(shards, MAX_SURVEY_TASKS)]
    total = Survey()
    try:
        for reference in pending:
            total += ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ShardError):
            raise error.cause from error
        raise
    return total


def group_evenly(shards: Sequence[InputShard], num_groups: int) -> list[tuple[InputShard, ...]]:
    """Deal shards to at most so many groups, none of them empty."""
    num_groups = min(num_groups, len(shards))
    return [tuple(shards[start::num_groups]) for start in range(num_groups)]
