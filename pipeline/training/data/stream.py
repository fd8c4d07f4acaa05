"""Shards as a stream of augmented training images, in an order that can be told beforehand.

pieces of an epoch's order -> usable samples -> decoded, cropped, varied -> uint8 images and image labels

What a row is depends on (rng_seed, epoch, key) alone, and Ray keeps the rows in order, so an interrupted run sees what
it would have seen. A sample that cannot be decoded stays in its place as a row that is marked invalid: the places of
the others do not move. Normalising and erasing happen in the trainer, on its device. This module is imported by every
process that carries images: it stays clear of PyTorch and timm, whose import takes each of them seven seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.data import DataContext, DataIterator
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

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
from pipeline.workers.shared_state import SharedAttempts

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("epoch", pa.int32()),
        pa.field("image", pa.large_binary()),
        pa.field("class_ids", pa.list_(pa.int16())),
    ]
)
"""What a reader yields: one row a sample, still encoded."""

BLOCK_BYTES = 8 * 2**20
"""Rows travel between the steps in blocks of about this size: small, so that the first batch comes soon."""
ROWS_PER_YIELD = 16
DECODE_BATCH = 16


class PieceSource(Datasource):
    """The samples of pieces, a task each, in the order of the pieces."""

    def __init__(
        self, pieces: Sequence[Piece], vocabulary: Vocabulary, config: TrainConfig, attempts: Attempts | None = None
    ) -> None:
        """Read `pieces`; those of training are shuffled within the run's window."""
        super().__init__()
        self._pieces = tuple(pieces)
        self._vocabulary = vocabulary
        self._config = config
        self._attempts = attempts

    def get_name(self) -> str:
        """Name the source in Ray's progress and metrics."""
        return "TrainingSamples"

    def estimate_inmemory_data_size(self) -> int | None:
        """Say how much there is to read, in bytes."""
        return sum(shard.size_bytes for piece in self._pieces for shard in piece.group.shards)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Give one task a piece, whatever parallelism Ray wishes for."""
        return [
            ReadTask(
                partial(read_piece, piece, self._vocabulary, self._config, self._attempts),
                BlockMetadata(
                    num_rows=piece.stop - piece.start,
                    size_bytes=sum(shard.size_bytes for shard in piece.group.shards),
                    input_files=None,
                    exec_stats=None,
                ),
                schema=SAMPLE_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for piece in self._pieces
        ]


def read_piece(
    piece: Piece, vocabulary: Vocabulary, config: TrainConfig, attempts: Attempts | None = None
) -> Iterator[pa.Table]:
    """Read the samples of a piece as tables of a few rows.

    What comes before the piece in its group is read and passed over, still encoded.

    Raises:
        ShardError: A shard cannot be read, or changed since it was listed.
    """
    # Several workers may be at pieces of one shard, and one worker at those of several epochs.
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
) -> Iterator[dict[str, Any]]:
    """Give the rows of the samples that can be trained on, in the shards' order.

    Args:
        shards: To be read.
        vocabulary: Matches the samples' tags.
        inputs: How samples are read.
        epoch: Which one the rows are for.
        attempts: Counts the processes that died with a shard; None: there are no other processes.
        reader: Tells apart who reads a shard at the same time.

    Raises:
        ShardError: A shard cannot be read, or changed since it was listed.
    """
    for shard in shards:
        require_unchanged(shard)
        read = partial(_read_usable, shard, vocabulary, inputs, epoch)
        for rows in read_guarded(shard.uri, read, attempts or AttemptCounter(), reader=reader):
            yield from rows


def _read_usable(
    shard: InputShard, vocabulary: Vocabulary, inputs: InputConfig, epoch: int
) -> Iterator[list[dict[str, Any]]]:
    """Give the usable rows of each chunk."""
    for piece in read_chunks(shard, inputs):
        rows = []
        for sample in piece.samples if isinstance(piece, Chunk) else ():
            class_ids = vocabulary.match(sample.tags, sample.class_numbers).class_ids
            if not find_unusable_reason(sample, class_ids):
                rows.append({"key": sample.key, "epoch": epoch, "image": sample.image, "class_ids": list(class_ids)})
        yield rows


def shuffle_in_window(
    rows: Iterator[dict[str, Any]], window: int, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Give every row once, each drawn from the next `window` rows."""
    waiting: list[dict[str, Any]] = []
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
    """Turn encoded samples into training images, and report those that are dropped to the box."""
    return augment_guarded(batch, config, num_classes, partial(post_rejection, box), attempts)


def augment_guarded(
    batch: dict[str, np.ndarray],
    config: TrainConfig,
    num_classes: int,
    on_rejection: Callable[[str, str], None],
    attempts: Attempts,
) -> dict[str, np.ndarray]:
    """Turn encoded samples into training images; in a child process if `MAX_DEATHS` processes died with them.

    See `pipeline.training.data.augmentation`, which is imported where it is needed only.
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

    Ray Data's scheduler runs in a process of its own, away from the training loop.

    Args:
        pieces: What the worker sees, of one epoch or of several.
        vocabulary: Matches the samples' tags.
        config: Of the run.
        box: Where images that cannot be decoded are reported.
        num_streams: How many such streams share the cluster's memory.
    """
    context = DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    context.execution_options.preserve_order = True
    # Images are ready long before they are wanted: a scheduler that turns over meanwhile takes cores from training.
    pace_scheduler(context)
    memory = ray.cluster_resources().get("object_store_memory", 0)
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=memory / 2 / num_streams
    )
    attempts = SharedAttempts()
    with DataContext.current(context):
        # Reading and augmenting stay separate steps (they ask for different resources): a few pieces are
        # then no limit to the number of images that are decoded at the same time.
        samples = ray.data.read_datasource(
            PieceSource(pieces, vocabulary, config, attempts), num_cpus=0.25, override_num_blocks=len(pieces)
        )
        images = samples.map_batches(
            augment_batch,
            batch_size=DECODE_BATCH,
            batch_format="numpy",
            fn_kwargs={"config": config, "num_classes": len(vocabulary.classes), "box": box, "attempts": attempts},
            num_cpus=1,
        )
    return images.streaming_split(1)[0]


def rebatch(blocks: Iterator[dict[str, np.ndarray]], sizes: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    """Cut blocks of rows into batches of the given sizes, in order.

    Raises:
        ValueError: There are fewer or more rows than the sizes want.
    """
    parts: list[dict[str, np.ndarray]] = []
    num_waiting = 0
    for size in sizes:
        if size == 0:
            yield {}
            continue
        while num_waiting < size:
            block = next(blocks, None)
            if block is None:
                raise ValueError(f"the stream ended {size - num_waiting} rows early")
            parts.append(block)
            num_waiting += len(block["key"])
        joined = _join(parts)
        yield {name: column[:size] for name, column in joined.items()}
        parts = [{name: column[size:] for name, column in joined.items()}]
        num_waiting -= size
    num_waiting += sum(len(block["key"]) for block in blocks)
    if num_waiting:
        raise ValueError(f"the stream has {num_waiting} rows too many")


def _join(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
