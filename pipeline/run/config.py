"""The configuration of a labelling run: frozen dataclasses, checked at construction."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any

from models.documents import STRICT, DocumentError, check_fields
from models.fusion import Fusion

IGNORE_LABEL = 255
"""Mask value of pixels that are neither of a class nor background."""

MIN_PATCHES = 196
"""Minimum token budget in patches, also for models that were trained on fewer: it resolves the objects of a photo."""
FORMAT_VERSION = 5
"""Of labelling runs. Changes when the meaning of parts or manifests changes; runs of different versions do not mix."""
ADDED_LATER = MappingProxyType({"is_added_later": True})
"""Metadata of a field that was added to this format later. At its default it is omitted from descriptions, so that
older runs keep their fingerprint."""

FILLED_IN = MappingProxyType({"is_added_later": True, "is_filled_in": True})
"""Metadata of such a field that a job fills in; the command line does not list it."""

ZERO_BASED = "zero-based"
ONE_BASED = "one-based"
NAMES = "names"
NAMES_PREFIX = "names:"
"""Before the file of the names, which a job reads."""


class KeyRule(StrEnum):
    """Where the name of a tar's member is split into key and suffix."""

    FIRST_DOT = "first-dot"
    """`a/IMG_1.seg.png` is `seg.png` of `a/IMG_1`, as in WebDataset."""
    LAST_DOT = "last-dot"
    """`a/IMG_1.0.jpg` is `jpg` of `a/IMG_1.0`."""


class Resolution(StrEnum):
    """The size at which the model sees an image."""

    NATIVE = "native"
    """As stored: for parity and evaluation. Each shape is a separate batch."""
    BUCKETS = "buckets"
    """Scaled into one of a few shapes of one token budget: for speed."""


class MapKind(StrEnum):
    """Which evidence makes the class maps."""

    ATTENTION = "attention"
    """Class-to-patch attention alone."""
    PATCH_CAM = "patch_cam"
    """ReLU of the patch CAM alone. Not for V1, which has none."""
    FUSED = "fused"
    """Both, fused as the variant does."""


class PixelRefinement(StrEnum):
    """How class maps are aligned to the edges of the image."""

    NONE = "none"
    """No refinement: maps are as coarse as the patches."""
    PAR = "par"
    """Averaging over neighbours of similar colour (`models.pixel_refinement`)."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How samples are read from shards."""

    __pydantic_config__ = STRICT

    tags_field: str = "tags"
    """Field of a sample's `.json` member, such as tags or meta.tags, or column of a Parquet file, that holds its tags:
    a list, or one text with commas; for other forms see the options below. A Parquet file without column tags may have
    txt, caption, or one column of Hugging Face's ClassLabel."""
    image_column: str | None = None
    """Parquet: column of the images, bytes or struct{bytes, path}. Default: image, else jpg, jpeg, png or webp."""
    key_column: str | None = None
    """Parquet: column of the keys, text or whole numbers. Default: key or __key__, else row numbers; a row whose
    key is null or empty also gets its row number."""
    image_root: str | None = field(default=None, metadata=ADDED_LATER)
    """Tables and COCO files: folder or URI that their relative paths start at. Default: the folder of the file."""
    allow_url: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Tables: places outside the image root that paths and URLs in the data may name, each as scheme and host, with a
    folder if wanted: https://images.example.com, s3://bucket/photos, file:///data. Default: none."""
    key: KeyRule = field(default=KeyRule.FIRST_DOT, metadata=ADDED_LATER)
    """Tar: where the base name of a member splits into key and suffix. last-dot: for names with dots, such as
    2020.01.05.jpg."""
    max_chunk_samples: int = 256
    """A chunk closes at this many samples."""
    max_chunk_bytes: int = 64 * 2**20
    """A chunk closes once its encoded images reach this many bytes."""
    max_image_pixels: int = 100_000_000
    """Images with more pixels are rejected as too_large before they are decoded."""
    max_image_bytes: int = field(default=256 * 2**20, metadata=ADDED_LATER)
    """Encoded images with more bytes are rejected as too_large and never held in memory: 100 million pixels take about
    100 MB as a good JPEG, and 300 MB without any compression."""
    tags_table: str | None = field(default=None, metadata=ADDED_LATER)
    """URI of a table (.csv, .tsv, .jsonl or .parquet) with the tags of the samples, joined by key, in place of those
    in the shards. Its tags are in the column of --inputs.tags-field."""
    tags_table_key: str | None = field(default=None, metadata=ADDED_LATER)
    """Column of that table with the keys of the samples, text or whole numbers. Default: key, else __key__."""
    tags_table_etag: str | None = field(default=None, metadata=FILLED_IN)
    """Size and etag of that table; a job fills it in."""
    class_numbers: str | None = field(default=None, metadata=ADDED_LATER)
    """What numbers in place of tags mean: zero-based or one-based (places in the vocabulary), or names:FILE, a file of
    their names: JSON or YAML, a list or a mapping from number to name, COCO's categories, or a name a line. Default:
    numbers are refused, unless the shard itself names its classes."""
    class_names: tuple[tuple[int, str], ...] | None = field(default=None, metadata=FILLED_IN)
    """Class numbers and their names; a job fills it in from the file."""
    multi_hot: bool = field(default=False, metadata=ADDED_LATER)
    """Lists of zeros and ones, or of true and false, have a place for each class, in the order of class_numbers."""
    min_score: float | None = field(default=None, metadata=ADDED_LATER)
    """Of names with scores, as in {"cat": 0.9} or [{"name": "cat", "score": 0.9}], those of at least this score are
    tags. Default: scores are refused."""
    separators: str = field(default=",;", metadata=ADDED_LATER)
    """Characters between the tags of one text, besides line breaks."""
    hashtags: bool = field(default=False, metadata=ADDED_LATER)
    """The tags of a text are its words after #."""

    @property
    def first_class_number(self) -> int:
        """The number of the first class of the vocabulary."""
        return int(self.class_numbers == ONE_BASED)

    @cached_property
    def class_name_by_number(self) -> Mapping[int, str] | None:
        """The names of class numbers; None if their file was not given."""
        return None if self.class_names is None else dict(self.class_names)

    def __post_init__(self) -> None:
        self._check_tags()
        for name in ("max_chunk_samples", "max_chunk_bytes", "max_image_pixels", "max_image_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        for name in ("tags_field", "image_column", "key_column", "tags_table_key"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty; give the name of a column")
        for place in self.allow_url:
            scheme, separator, rest = place.partition("://")
            if not scheme or not separator or not rest.strip("/") or (scheme == "file" and rest[0] != "/"):
                raise ValueError(
                    f"allow_url '{place}' is no place; give scheme and host, as https://images.example.com, "
                    "s3://bucket or file:///data"
                )

    def _check_tags(self) -> None:
        """Check the options of tags."""
        kinds = (None, ZERO_BASED, ONE_BASED, NAMES)
        if self.class_numbers == NAMES_PREFIX:
            raise ValueError("class_numbers names no file; write names:FILE")
        if self.class_numbers not in kinds and not str(self.class_numbers).startswith(NAMES_PREFIX):
            raise ValueError(f"class_numbers must be zero-based, one-based or names:FILE, got '{self.class_numbers}'")
        if self.class_numbers == NAMES and self.class_names is None:
            raise ValueError("class_numbers names no file; write names:FILE")
        if self.class_names is not None and self.class_numbers is None:
            raise ValueError("class_names has no meaning without class_numbers; leave it out")
        if self.multi_hot and self.class_numbers is None:
            raise ValueError(
                "multi_hot needs the order of the classes; add --inputs.class-numbers zero-based for that of the "
                "vocabulary, or names:FILE"
            )
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ValueError(f"need a finite min_score, got {self.min_score}")
        if any(letter.isalnum() for letter in self.separators):
            raise ValueError(
                f"separators are single characters such as '|,', no letters or digits; got '{self.separators}'"
            )


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How the model looks at an image."""

    __pydantic_config__ = STRICT

    resolution: Resolution = Resolution.BUCKETS
    """buckets: scaled to one token budget, for speed. native: as stored, for evaluation."""
    num_patches: int | None = None
    """Token budget of a bucket, in patches: 784 is 448x448 at patch 16. None: as many as the model was trained on, 196
    at least. Unused at native resolution."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the views relative to the resolution."""
    flip: bool = True
    """Also see every view mirrored."""

    def __post_init__(self) -> None:
        if self.num_patches is not None and self.num_patches < 1:
            raise ValueError(f"need num_patches >= 1, got {self.num_patches}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"need at least one scale, all above 0 and finite, got {self.scales}")


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """How a model's evidence becomes class maps and masks."""

    __pydantic_config__ = STRICT

    kind: MapKind = MapKind.FUSED
    """Evidence: class-to-patch attention, patch CAM, or both."""
    fusion: Fusion | None = None
    """How attention and patch CAM are fused. None: as the variant's authors did (v2: product; plus: square_root)."""
    num_attention_layers: int | None = None
    """Last layers whose class-to-patch attention is used; None: as the variant's authors did (3; plus: 12)."""
    refine: bool = True
    """Spread the maps along the patch affinity."""
    num_affinity_layers: int | None = None
    """Last layers whose attention makes the patch affinity; None: all, as the authors did."""
    affinity_steps: int = 1
    """Number of times the maps are spread: steps of a random walk along the affinity."""
    pixel_refinement: PixelRefinement = PixelRefinement.NONE
    """par: align the fused maps to the edges of the image, by the colours of its pixels. The maps kept in the
    manifest are those before it."""
    pixel_iterations: int = 10
    """Rounds of the pixel refinement. Unused without it."""
    pixel_side_px: int = 224
    """Side of a square with about as many pixels as the pixel refinement works on. Unused without it."""
    background_threshold: float = 0.4
    """Pixels whose best class map is at most this are background. Maps are in [0, 1]."""
    foreground_threshold: float = 0.4
    """Pixels whose best class map is above this get its class; between the two they are ignored (255)."""
    min_presence: float = 0.0
    """Tags whose class has a presence probability below this are left out of the mask; the row lists them in
    doubtful_class_ids."""
    has_background: bool = True
    """False: every pixel gets its best tagged class, as suits scenes that are all classes; thresholds then only decide
    where view_agreement and head_agreement are measured."""
    class_scales: tuple[float, ...] | None = None
    """Factor in (0, 1] for the map of each class, in the vocabulary's order, before maps and thresholds are compared:
    a class with half the factor needs twice the evidence. Set by --calibration. Default: 1 for all."""
    suggestion_threshold: float = 0.5
    """Untagged classes with a presence probability above this are recorded as suggestions."""
    draw_suggestions: bool = False
    """Treat suggested classes like tags: they get class maps and take part in the mask."""
    keep_maps: bool = False
    """Keep the maps on the patch grid in the manifest (under 1 kB a class), to change thresholds later."""

    def __post_init__(self) -> None:
        if not 0 <= self.background_threshold <= self.foreground_threshold <= 1:
            raise ValueError(
                "need 0 <= background_threshold <= foreground_threshold <= 1, "
                f"got {self.background_threshold} and {self.foreground_threshold}"
            )
        for name in ("min_presence", "suggestion_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"need {name} between 0 and 1, got {getattr(self, name)}")
        for name in ("num_attention_layers", "num_affinity_layers", "affinity_steps"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"need {name} >= 1, got {number}")
        for name in ("pixel_iterations", "pixel_side_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.class_scales is not None and not all(0 < scale <= 1 for scale in self.class_scales):
            raise ValueError(f"need class_scales above 0 and at most 1, got {self.class_scales}")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """All settings that determine the bytes of a labelling run, besides model, vocabulary and inputs."""

    __pydantic_config__ = STRICT

    inputs: InputConfig = field(default_factory=InputConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    maps: MapConfig = field(default_factory=MapConfig)


def settle_config(config: LabelConfig, grid_side: int) -> LabelConfig:
    """Fill in the settings that depend on the model, so that a run's identity contains all values.

    Args:
        config: From the command line.
        grid_side: Patches along a side of the model's training images.
    """
    if config.views.num_patches is not None:
        return config
    return replace(config, views=replace(config.views, num_patches=max(MIN_PATCHES, grid_side**2)))


def parse_config(described: Mapping[str, Any]) -> LabelConfig:
    """Parse a configuration from the plain values of `describe_config`; missing fields get their defaults.

    Raises:
        DocumentError: A field is unknown to this version, a value is wrong, or it is not the description of a labelling
            run.
    """
    if missing := {item.name for item in fields(LabelConfig)} - described.keys():
        raise DocumentError(f"it describes no {' and no '.join(sorted(missing))}")
    config: LabelConfig = check_fields(LabelConfig, dict(described))
    return config


def describe_config(config: LabelConfig) -> dict[str, Any]:
    """Convert a configuration to plain values for JSON."""
    return describe_fields(config)


def describe_fields(config: Any) -> dict[str, Any]:
    """Convert a dataclass of settings to plain values for JSON; omit fields `ADDED_LATER` at their defaults."""
    return _leave_out_unset(json.loads(json.dumps(asdict(config))), config)


def name_unset(described: Mapping[str, Any]) -> dict[str, Any]:
    """Add the omitted fields `ADDED_LATER` to the description of a labelling run, for comparisons."""
    named = {}
    for name, values in described.items():
        part = getattr(LabelConfig(), name, None)
        later = [item for item in fields(part) if "is_added_later" in item.metadata] if is_dataclass(part) else []
        named[name] = {item.name: item.default for item in later} | values if later else values
    return named


def _leave_out_unset(described: dict[str, Any], config: Any) -> dict[str, Any]:
    kept = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if "is_added_later" in item.metadata and value == item.default:
            continue
        inner = described[item.name]
        kept[item.name] = _leave_out_unset(inner, value) if is_dataclass(value) else inner
    return kept


CHUNKS_AT_ONCE = 2
"""Chunks of a labelling actor in flight: one is read and drawn while the device computes the other. Not a setting."""
