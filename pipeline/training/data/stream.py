"""Stream of augmented training images in a deterministic order.

pieces of an epoch's order -> usable samples -> decoded, cropped images -> uint8 images, operations and image labels

A row depends on (rng_seed, epoch, key) alone, and Ray keeps the order of rows, so a resumed run sees the same rows. A
sample that cannot be decoded stays at its position as an invalid row, so the other positions do not change. The trainer
applies the operations, normalises and erases on its device. Every process that carries images imports this module, so
it does not import PyTorch, which takes seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypedDict, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.data import DataContext, DataIterator

from pipeline.inputs.chunks import read_chunks, require_unchanged
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.config import TrainConfig
from pipeline.training.data.epoch_order import VALIDATION, Piece
from pipeline.training.data.scheduler_pace import pace_scheduler
from pipeline.training.data.survey import find_unusable_reason
from pipeline.training.events import post_rejection
from pipeline.training.seeds import make_generator
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter, Attempts
from pipeline.workers.guarded_reads import read_guarded
from pipeline.workers.planned_source import PlannedSource, ReadPart
from pipeline.workers.shared_state import SharedAttempts

Row = TypeVar("Row")
Block = dict[str, np.ndarray]
"""Columns of a few rows."""

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("epoch", pa.int32()),
        pa.field("image", pa.large_binary()),
        pa.field("class_ids", pa.list_(pa.int16())),
    ]
)
"""Rows of a reader: one per sample, still encoded."""

BLOCK_BYTES = 8 * 2**20
"""Approximate size of the blocks between the steps; small, for a short time to the first batch."""
ROWS_PER_YIELD = 16
"""Rows of a table that a reader yields."""
DECODE_BATCH = 16
"""Images that one task augments."""


class EncodedSample(TypedDict):
    """A usable sample, a row of `SAMPLE_SCHEMA`."""

    key: str
    epoch: int
    image: bytes | None
    class_ids: list[int]


def list_parts(
    pieces: Sequence[Piece], vocabulary: Vocabulary, config: TrainConfig, attempts: Attempts | None = None
) -> list[ReadPart]:
    """Plan one read task per piece; samples of training pieces are shuffled within the run's window."""
    return [
        ReadPart(
            read=partial(read_piece, piece, vocabulary, config, attempts),
            num_bytes=sum(shard.size_bytes for shard in piece.group.shards),
        )
        for piece in pieces
    ]


def read_piece(
    piece: Piece, vocabulary: Vocabulary, config: TrainConfig, attempts: Attempts | None = None
) -> Iterator[pa.Table]:
    """Read the samples of a piece as tables of a few rows.

    Samples before the piece in its group are read and skipped, still encoded.

    Raises:
        ShardError: A shard cannot be read, or has changed since it was listed.
    """
    # Several workers may read pieces of one shard, and one worker pieces of several epochs.
    reader = f"for epoch {piece.epoch}, {piece.start} to {piece.stop}"
    rows = iterate_usable(piece.group.shards, vocabulary, config.inputs, piece.epoch, attempts, reader)
    if piece.epoch != VALIDATION:
        generator = make_generator(config.rng_seed, piece.epoch, f"window/{piece.group.number}")
        rows = shuffle_in_window(rows, config.shuffle_window, generator)
    wanted = islice(rows, piece.start, piece.stop)
    while batch := list(islice(wanted, ROWS_PER_YIELD)):
        yield pa.Table.from_pylist(batch, schema=SAMPLE_SCHEMA)


def iterate_usable(
    shards: Sequence[InputShard],
    vocabulary: Vocabulary,
    inputs: InputConfig,
    epoch: int,
    attempts: Attempts | None = None,
    reader: str = "",
) -> Iterator[EncodedSample]:
    """Read the usable samples of shards, in the shards' order.

    Args:
        shards: To be read.
        vocabulary: Maps tags to classes.
        inputs: Settings of reading.
        epoch: Written to the rows.
        attempts: Counts the processes that died with a shard; None: there are no other processes.
        reader: Name that distinguishes concurrent readers of a shard in the count of deaths.

    Raises:
        ShardError: A shard cannot be read, or has changed since it was listed.
    """
    for shard in shards:
        require_unchanged(shard)
        read = partial(_read_usable_samples, shard, vocabulary, inputs, epoch)
        for rows in read_guarded(shard.uri, read, attempts or AttemptCounter(), reader=reader):
            yield from rows


def _read_usable_samples(
    shard: InputShard, vocabulary: Vocabulary, inputs: InputConfig, epoch: int
) -> Iterator[list[EncodedSample]]:
    """Read the usable samples of each chunk."""
    for piece in read_chunks(shard, inputs):
        rows = []
        for sample in piece.samples if isinstance(piece, Chunk) else ():
            class_ids = vocabulary.match(
                sample.tags, sample.class_numbers, first_number=inputs.first_class_number
            ).class_ids
            if not find_unusable_reason(sample, class_ids):
                # Rows are pickled and shuffled, so each owns its bytes.
                image = None if sample.image is None else bytes(sample.image)
                rows.append(EncodedSample(key=sample.key, epoch=epoch, image=image, class_ids=list(class_ids)))
        yield rows


def shuffle_in_window(rows: Iterator[Row], window: int, generator: np.random.Generator) -> Iterator[Row]:
    """Yield every row once, each drawn from the next `window` rows."""
    waiting: list[Row] = []
    for row in rows:
        if len(waiting) < window:
            waiting.append(row)
            continue
        place = generator.integers(window)
        yield waiting[place]
        waiting[place] = row
    for place in generator.permutation(len(waiting)):
        yield waiting[place]


def augment_batch(
    batch: dict[str, np.ndarray], config: TrainConfig, num_classes: int, box: ActorHandle, attempts: Attempts
) -> dict[str, np.ndarray]:
    """Turn encoded samples into training images; report the rejected ones to the event box."""
    return augment_guarded(batch, config, num_classes, partial(post_rejection, box), attempts)


def augment_guarded(
    batch: dict[str, np.ndarray],
    config: TrainConfig,
    num_classes: int,
    on_rejection: Callable[[str, str], None],
    attempts: Attempts,
) -> dict[str, np.ndarray]:
    """Turn encoded samples into training images; in a child process if `MAX_DEATHS` processes have died with them.

    `pipeline.training.data.augmentation` is imported here, so that only the processes that decode load PyTorch.
    """
    name = f"augment {batch['epoch'][0]} {batch['key'][0]} {batch['key'][-1]}" if len(batch.get("key", ())) else ""
    if name and attempts.begin(name) >= MAX_DEATHS:
        from pipeline.training.data.isolated_augmentation import augment_isolated

        return augment_isolated(batch, config, num_classes, on_rejection)
    from pipeline.training.data.augmentation import augment_samples

    images = augment_samples(batch, config, num_classes, on_rejection)
    attempts.finish(name)
    return images


def open_stream(
    pieces: Sequence[Piece], vocabulary: Vocabulary, config: TrainConfig, box: ActorHandle, *, num_streams: int
) -> DataIterator:
    """Start the stream of a worker's images, in the order of the pieces: pieces -> samples -> augmented images.

    Ray Data's scheduler runs in a process of its own, separate from the training loop.

    Args:
        pieces: Of the worker's shares of one epoch or of several.
        vocabulary: Maps tags to classes.
        config: Of the run.
        box: Event box that receives the rejected images.
        num_streams: Number of streams that share the cluster's object store.
    """
    context = DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    context.execution_options.preserve_order = True
    # Images are ready before training needs them. A scheduler that polls meanwhile takes cores from training.
    pace_scheduler(context)
    memory = ray.cluster_resources().get("object_store_memory", 0)
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=memory / 2 / num_streams
    )
    attempts = SharedAttempts()
    with DataContext.current(context):
        # Reading and augmenting request different resources, so Ray keeps them separate steps: the number of pieces
        # does not limit the number of images that are decoded at the same time.
        parts = list_parts(pieces, vocabulary, config, attempts)
        samples = ray.data.read_datasource(
            PlannedSource("TrainingSamples", parts, SAMPLE_SCHEMA), num_cpus=0.25, override_num_blocks=len(pieces)
        )
        images = samples.map_batches(
            augment_batch,
            batch_size=DECODE_BATCH,
            batch_format="numpy",
            fn_kwargs={"config": config, "num_classes": len(vocabulary.classes), "box": box, "attempts": attempts},
            num_cpus=1,
        )
    return images.streaming_split(1)[0]


def rebatch(blocks: Iterator[Block], sizes: Sequence[int]) -> Iterator[list[Block]]:
    """Cut blocks of rows into batches of the given sizes, in order; the batch of size 0 is an empty list.

    A batch is a list of views of the blocks: no row is copied.

    Raises:
        ValueError: The number of rows is not the sum of the sizes.
    """
    waiting: list[Block] = []
    num_waiting = 0
    for size in sizes:
        while num_waiting < size:
            block = next(blocks, None)
            if block is None:
                raise ValueError(f"the stream ended {size - num_waiting} rows early")
            waiting.append(block)
            num_waiting += len(block["key"])
        batch, waiting = _split_blocks(waiting, size)
        yield batch
        num_waiting -= size
    num_waiting += sum(len(block["key"]) for block in blocks)
    if num_waiting:
        raise ValueError(f"the stream has {num_waiting} rows too many")


def _split_blocks(blocks: Sequence[Block], num_rows: int) -> tuple[list[Block], list[Block]]:
    """Divide blocks of rows into the first `num_rows` rows and the rest, both without empty blocks."""
    first: list[Block] = []
    rest: list[Block] = []
    for block in blocks:
        length = len(block["key"])
        taken = min(length, num_rows)
        num_rows -= taken
        if taken:
            first.append({name: column[:taken] for name, column in block.items()})
        if taken < length:
            rest.append({name: column[taken:] for name, column in block.items()})
    return first, rest
