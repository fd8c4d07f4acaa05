"""Augmentation in a child process, for batches whose worker processes have died.

A training image depends only on the run's seed, the epoch and its key, so the other images of the batch stay the same.
An image that kills its process becomes an invalid row at its position, as one that cannot be decoded does.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from pipeline.errors import ShardError
from pipeline.run.records import Reason
from pipeline.training.config import TrainConfig
from pipeline.training.data.augmentation import (
    ReportRejection,
    augment_samples,
    make_empty_rows,
    make_variation,
)
from pipeline.workers.guarded_reads import read_in_child

Columns = dict[str, np.ndarray]


def augment_isolated(batch: Columns, config: TrainConfig, num_classes: int, on_rejection: ReportRejection) -> Columns:
    """Turn encoded samples into training images, as `augment_samples` does; drop those that kill the child process."""
    rows: list[Columns] = []
    while len(rows) < len(batch["key"]):
        rest = {name: column[len(rows) :] for name, column in batch.items()}
        try:
            for row, rejections in read_in_child("images", partial(_augment_each, rest, config, num_classes)):
                for key, reason in rejections:
                    on_rejection(key, reason)
                rows.append(row)
        except ShardError:
            # The child sent a row for each image before the one that killed it.
            culprit = str(batch["key"][len(rows)])
            on_rejection(culprit, f"{Reason.CRASHED}: the processes that decoded this image died")
            rows.append(_make_invalid_row(culprit, config, num_classes))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _augment_each(
    batch: Columns, config: TrainConfig, num_classes: int
) -> Iterator[tuple[Columns, list[tuple[str, str]]]]:
    """Augment samples one by one, in the child process; yield each row with its rejections."""
    for place in range(len(batch["key"])):
        rejections: list[tuple[str, str]] = []
        one = {name: column[place : place + 1] for name, column in batch.items()}

        def report(key: str, reason: str, reported: list[tuple[str, str]] = rejections) -> None:
            reported.append((key, reason))

        yield augment_samples(one, config, num_classes, report), rejections


def _make_invalid_row(key: str, config: TrainConfig, num_classes: int) -> Columns:
    size = config.model.image_size
    return make_empty_rows([key], size, make_variation(size, config.augment).num_layers, num_classes)
