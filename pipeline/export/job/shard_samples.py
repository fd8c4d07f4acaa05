"""Upright samples of a published shard, with the counts of the rows that are taken and of those that are not."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.commit.names import locate_manifest
from pipeline.errors import ManifestError, ShardError
from pipeline.export.job.identity import Export
from pipeline.export.job.records import ShardCounts, ShardItem
from pipeline.export.job.selection import LeftOut
from pipeline.export.names import name_files
from pipeline.export.samples import ExportSample
from pipeline.export.upright import make_upright, read_size
from pipeline.published.images import ImageReader
from pipeline.published.rows import VERSIONED_COLUMNS, MaskRow, OpenManifest, open_rows

MAX_SHARD_PLACES = 2**21
SAMPLES_OF_SHARD = 2**32
NOT_EXPORTED = frozenset({"class_maps"})
"""Columns that no format needs, and that are large."""


def iterate_samples(export: Export, item: ShardItem, counts: ShardCounts) -> Iterator[ExportSample]:
    """Read the rows that an export takes, with their images; one row group and a few images are in memory.

    Args:
        export: The export.
        item: The shard.
        counts: Is counted up as rows are read.

    Raises:
        ManifestError: The manifest is damaged, or a mask does not fit its image.
        ShardError: An image is gone or changed.
        StorageError: A store failed.
    """
    with open_rows(export.run, locate_manifest(export.run.uri, item.shard.name)) as manifest:
        rows = _choose_rows(export, manifest, counts)
        for row, image in _read_images(export, item, rows, counts):
            sample = make_sample(export, item, row, image)
            _count(sample, counts)
            yield sample


def _choose_rows(export: Export, manifest: OpenManifest, counts: ShardCounts) -> Iterator[MaskRow]:
    """Choose rows by what they are once they are corrected; they are given as the manifest has them."""
    correct = export.selection.correct
    columns = [name for name in (*manifest.columns, *VERSIONED_COLUMNS) if name not in NOT_EXPORTED]
    for group in range(manifest.num_row_groups):
        taken = []
        for place, row in enumerate(map(correct, manifest.read_rows(group, export.selection.columns))):
            reason = export.selection.find_reason(row)
            counts.num_read += 1
            if row.is_labelled:
                counts.labelled_of_class.update(row.get("class_ids") or ())
            if reason is None:
                taken.append(place)
            else:
                counts.left_out[str(reason)] += 1
        if taken:
            rows = manifest.read_rows(group, columns)
            for place in taken:
                reason = export.selection.find_reason_of_review(rows[place])
                if reason is None:
                    yield rows[place]
                else:
                    counts.left_out[str(reason)] += 1


def _read_images(
    export: Export, item: ShardItem, rows: Iterable[MaskRow], counts: ShardCounts
) -> Iterator[tuple[MaskRow, bytes]]:
    reader = ImageReader(export.run, item.shard)
    if not export.skip_missing:
        waiting: deque[MaskRow] = deque()

        def await_each() -> Iterator[MaskRow]:
            for row in rows:
                waiting.append(row)
                yield row

        for image in reader.read_many(await_each()):
            yield waiting.popleft(), image
        return
    for row in rows:
        try:
            image = reader.read(row)
        except ShardError:
            counts.left_out[str(LeftOut.SKIP_MISSING)] += 1
        else:
            yield row, image


def make_sample(export: Export, item: ShardItem, row: MaskRow, image: bytes) -> ExportSample:
    """Turn a row and its image upright, with its corrected mask if it has one.

    Tags stay those of the input, and classes are those of the corrected mask.

    Raises:
        ManifestError: The mask is damaged or does not fit its image.
    """
    suggested = set(row.get("suggested_class_ids") or ())
    names = export.context.class_names
    tagged = [names[number] for number in row.get("class_ids") or () if number not in suggested]
    row = export.selection.correct(row)
    mask = row.upright_mask()
    try:
        upright, suffix = make_upright(image, row.orientation)
        size = read_size(upright)
    except ManifestError as error:
        raise ManifestError(f"row '{row.key}' of shard '{item.shard.name}': {error}") from error
    if size != mask.shape:
        raise ManifestError(
            f"row '{row.key}' of shard '{item.shard.name}' has a mask of {mask.shape[1]} x {mask.shape[0]} pixels for "
            f"an image of {size[1]} x {size[0]}; label the shard again"
        )
    return ExportSample(
        name=name_files(row.key, item.place, row.index),
        number=item.place * SAMPLES_OF_SHARD + row.index,
        key=row.key,
        shard_name=item.shard.name,
        index=row.index,
        image=upright,
        image_suffix=suffix,
        mask=mask,
        class_ids=tuple(row.get("class_ids") or ()),
        tags=(*tagged, *(row.get("tags_unknown") or ())),
        quality=row.quality or 0.0,
        split=export.selection.splits.choose(row.key),
        values={name: value for name, value in row.values.items() if name != "mask"},
    )


def _count(sample: ExportSample, counts: ShardCounts) -> None:
    counts.images[sample.split] += 1
    counts.num_corrected += bool(sample.provenance)
    counts.exported_of_class.update(sample.class_ids)
    pixels = np.bincount(sample.mask.ravel(), minlength=1)
    found = Counter({value: int(num) for value, num in enumerate(pixels) if num})
    counts.pixels.setdefault(sample.split, Counter()).update(found)
