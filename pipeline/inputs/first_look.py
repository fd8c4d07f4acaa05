"""A first look at the tags of a run, before workers start: what cannot be read, and what no class matches."""

import difflib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.errors import ColumnError, ShardError, TagsError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.patterns.file_kinds import HEAD_BYTES, FileKind, recognise_kind
from pipeline.inputs.patterns.first_bytes import choose_looks
from pipeline.inputs.tag_values.forms import CLASS_NUMBERS_ADVICE, MIN_VECTOR, parse_class_number
from pipeline.inputs.tags_table.sorted_file import open_tags_table
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Sample
from pipeline.run.vocabulary import Vocabulary, normalise_tag

NUM_SAMPLES = 16
MAX_BYTES = 8 * 2**20
"""Bytes of images after which the first look ends."""
MAX_SHOWN = 5
MAX_WARNINGS = 3
NUM_THREADS = 4
SEPARATORS = ",;|，、；\t/"
"""Characters that separate tags in collections; the default ones are among them."""
IN_PLACE_OF_IMAGES = frozenset({FileKind.LFS_POINTER, FileKind.ANNEX_POINTER, FileKind.DVC_POINTER, FileKind.HTML})
"""Kinds of files that are left in place of images by copies and downloads that fail."""


def look_at_tags(
    shards: Sequence[InputShard],
    config: InputConfig,
    vocabulary: Vocabulary,
    *,
    num_looks: int = 1,
    allow_nothing_labelled: bool = False,
) -> list[str]:
    """Read the first samples of some shards; return warnings about their tags.

    A damaged shard is no concern of the first look: the run reports it, and labels the others.

    Args:
        shards: Shards with work.
        config: Settings of the reader.
        vocabulary: Classes that tags name.
        num_looks: Maximum number of shards to look at: the first, the last and others between.
        allow_nothing_labelled: Warn where the tags or images of all samples are unreadable, in place of the error.

    Raises:
        ColumnError: The tags of a shard cannot be read with this configuration.
        TagsError: The tags of none of its samples can, or their images are pointers to others.
        StorageError: The store failed.
    """
    looked = choose_looks(shards, num_looks)

    def look(shard: InputShard) -> list[str]:
        return _look_at_shard(shard, config, vocabulary, allow_nothing_labelled=allow_nothing_labelled)

    # The first one alone: it opens the table of tags.
    found = [look(shard) for shard in looked[:1]]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found += pool.map(look, looked[1:])
    warnings = list(dict.fromkeys(warning for of_shard in found for warning in of_shard))
    if len(warnings) <= MAX_WARNINGS:
        return warnings
    return [*warnings[:MAX_WARNINGS], f"and {len(warnings) - MAX_WARNINGS} more warnings about tags of other shards"]


def _look_at_shard(
    shard: InputShard, config: InputConfig, vocabulary: Vocabulary, *, allow_nothing_labelled: bool
) -> list[str]:
    try:
        samples = _read_first_samples(shard, config)
        warnings = _find_unmatchable(samples, vocabulary, config)
        fault = _find_fault(shard, samples, config, len(vocabulary.classes))
        if error := fault or _find_pointers(shard, samples):
            raise TagsError(error)
    except (ColumnError, TagsError) as error:
        if not allow_nothing_labelled:
            raise
        return [str(error)]
    except ShardError:
        return []
    return warnings + (_find_unusable(shard, samples) or _find_unknown(shard, samples, vocabulary, config))


def suggest_separators(tags: Iterable[str], vocabulary: Vocabulary | None = None) -> str:
    """Advise how to split tags that no class matches; empty if nothing suggests itself.

    Args:
        tags: Unknown tags, as written.
        vocabulary: If given, spaces are advised where they would separate known tags.
    """
    tags = list(tags)
    if any(tag.lstrip().startswith(("#", "＃")) and not tag.lstrip(" #＃-").isdecimal() for tag in tags):
        return "add --inputs.hashtags to read the words after #"
    found = "".join(character for character in SEPARATORS if any(character in tag for tag in tags))
    if found:
        both = ",;" + found.replace(",", "").replace(";", "")
        return f"add --inputs.separators '{both}' if {_name_characters(found)} separates tags"
    words = {word for tag in tags for word in tag.split()}
    if vocabulary is not None and vocabulary.match(sorted(words)).class_ids:
        return "add --inputs.separators ' ' if spaces separate tags"
    return ""


def _name_characters(characters: str) -> str:
    return " or ".join("a tab" if character == "\t" else f"'{character}'" for character in characters)


def _read_first_samples(shard: InputShard, config: InputConfig) -> tuple[Sample, ...]:
    small = replace(config, max_chunk_samples=NUM_SAMPLES, max_chunk_bytes=MAX_BYTES)
    first = next(iter(read_chunks(shard, small)))
    return first.samples if isinstance(first, Chunk) else ()


def _find_fault(shard: InputShard, samples: Sequence[Sample], config: InputConfig, num_classes: int) -> str:
    """Why no sample can get its right tags; empty if some can."""
    if samples and not any(sample.has_tags_row for sample in samples):
        return (
            f"tags table '{config.tags_table}' has no row for any of the first {len(samples)} samples of shard "
            f"'{shard.uri}'; their keys are such as '{samples[0].key}', those of the table such as "
            f"'{open_tags_table(config).first_key}'; name the column of equal keys by --inputs.tags-table-key"
        )
    errors = [sample.tags_error for sample in samples if sample.tags_error]
    if errors and len(errors) == len(samples):
        count = "the first sample" if len(samples) == 1 else f"each of the first {len(samples)} samples"
        return f"{_name_shard(shard)}: tags of {count} cannot be read: {errors[0]}"
    if config.class_numbers is None or config.multi_hot:
        return ""
    first_two = {str(config.first_class_number), "1", "0"}
    if config.class_names is not None:
        first_two = {name for number, name in config.class_names if number in (0, 1)} | {"#0", "#1"}
    lists = [sample.tags or tuple(map(str, sample.class_numbers)) for sample in samples if not sample.tags_error]
    lengths = {len(entries) for entries in lists}
    is_vector = len(lengths) == 1 and min(lengths) >= MIN_VECTOR and all(set(entries) <= first_two for entries in lists)
    if is_vector and (len(lists) > 1 or lengths == {num_classes}):
        return (
            f"{_name_shard(shard)}: the lists of the first {len(lists)} samples are {lengths.pop()} zeros and ones "
            "each, as vectors with a place for each class are; add --inputs.multi-hot"
        )
    return ""


def _find_pointers(shard: InputShard, samples: Sequence[Sample]) -> str:
    """Message if the images of all samples are pointers or pages of one kind, left in place of images; else empty."""
    kinds = {recognise_kind(bytes(sample.image[:HEAD_BYTES])) for sample in samples if sample.image}
    if len(kinds) != 1 or not kinds <= IN_PLACE_OF_IMAGES:
        return ""
    (kind,) = kinds
    return f"shard '{shard.uri}': the image of each of the first {len(samples)} samples is {kind}; {kind.advice}"


def _find_unmatchable(samples: Sequence[Sample], vocabulary: Vocabulary, config: InputConfig) -> list[str]:
    """Warn of names that no text can contain as one tag, unless the samples have lists."""
    separators = set(config.separators)
    if config.hashtags or any(separators & set(tag) for sample in samples for tag in sample.tags):
        return []
    aliases = vocabulary.aliases or ((),) * len(vocabulary.classes)
    found = []
    for class_id, (name, names) in enumerate(zip(vocabulary.classes, aliases, strict=True), start=1):
        for alias in (name, *names):
            parts = [alias]
            for separator in separators:
                parts = [piece for part in parts for piece in part.split(separator)]
            if len(parts) > 1 and vocabulary.match(parts) != ((class_id,), ()):
                found.append(alias)
    if not found:
        return []
    shown = ", ".join(f"'{alias}'" for alias in found[:MAX_SHOWN])
    return [
        f"{len(found)} names of the vocabulary contain a separator of tags, such as {shown}: they match tags in lists, "
        "but not in text; set --inputs.separators to other characters if your tags are text"
    ]


def _find_unusable(shard: InputShard, samples: Sequence[Sample]) -> list[str]:
    """Warn if no sample is whole, or none has an image."""
    place = _name_place(shard, samples)
    if samples and all(sample.dotted_name_error for sample in samples):
        return [f"no plain image in {place}: {samples[0].dotted_name_error}"]
    if samples and not any(sample.image_name or sample.download_error for sample in samples):
        return [f"no image in {place}: {samples[0].no_image_error or 'all are missing'}{_advise_order(shard)}"]
    return []


def _find_unknown(
    shard: InputShard, samples: Sequence[Sample], vocabulary: Vocabulary, config: InputConfig
) -> list[str]:
    """Warn if no sample has a known tag: the first tags as written, the nearest names, and how to split."""
    unknown: dict[str, None] = {}
    for sample in samples:
        matched = vocabulary.match(sample.tags, sample.class_numbers, first_number=config.first_class_number)
        if matched.class_ids:
            return []
        unknown |= dict.fromkeys(matched.unknown)
    if not samples:
        return []
    place = _name_place(shard, samples)
    if not unknown:
        errors = [sample.tags_error or sample.no_tags_error for sample in samples]
        reason = next(filter(None, errors), "")
        return [
            f"no tags in {place}{reason and f' ({reason})'}; if tags are in another place, name it by "
            f"--inputs.tags-field or --inputs.tags-table{_advise_order(shard)}"
        ]
    shown = ", ".join(f"'{tag}'" for tag in list(unknown)[:MAX_SHOWN])
    nearest = _find_nearest(unknown, vocabulary)
    hint = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
    advice = _suggest_numbers(samples, unknown, vocabulary, config) or suggest_separators(unknown, vocabulary)
    return [
        f"no known tag in {place}, but {shown}{hint}; "
        f"{advice or 'add the tags as aliases to the vocabulary if they name classes'}"
    ]


def _suggest_numbers(
    samples: Sequence[Sample], unknown: Iterable[str], vocabulary: Vocabulary, config: InputConfig
) -> str:
    """Advise what to do about numbers that no class has; empty if the tags are words."""
    if any(sample.class_numbers for sample in samples):
        first = config.first_class_number
        return (
            f"the classes of the vocabulary have the numbers {first} to {first + len(vocabulary.classes) - 1}; "
            "name the classes of other numbers by --inputs.class-numbers names:FILE"
        )
    if config.class_numbers is None and all(isinstance(parse_class_number(tag), int) for tag in unknown):
        return CLASS_NUMBERS_ADVICE
    return ""


def _advise_order(shard: InputShard) -> str:
    """Advice for archives whose images and tags may stand apart."""
    return "" if shard.is_parquet else "; if images and tags stand apart in the archive, sort its members by name"


def _name_place(shard: InputShard, samples: Sequence[Sample]) -> str:
    count = "the first sample" if len(samples) == 1 else f"the first {len(samples)} samples"
    return f"{count} of {_name_shard(shard)}"


def _name_shard(shard: InputShard) -> str:
    # The file of an index is no file of the user.
    return "the folder or table of images" if shard.is_index else f"shard '{shard.uri}'"


def _find_nearest(tags: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """Class names and aliases that are spelled like a tag."""
    aliases = [alias for names in vocabulary.aliases for alias in names]
    by_name = {normalise_tag(name): name for name in (*aliases, *vocabulary.classes)}
    found: dict[str, None] = {}
    for tag in list(tags)[:NUM_SAMPLES]:
        for name in difflib.get_close_matches(normalise_tag(tag)[:100], by_name, n=1, cutoff=0.6):
            found[f"'{by_name[name]}'"] = None
    return list(found)[:MAX_SHOWN]
