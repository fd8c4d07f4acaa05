"""Shards as a stream of augmented training images.

shards -> usable samples, shuffled anew each epoch -> decoded, cropped, varied -> uint8 images and image labels

What an image looks like in an epoch is a function of (rng_seed, epoch, key) alone, so a retried task gives the
same pixels. Normalising and erasing happen in the trainer, on its device. This module is imported by every process
that carries images: it stays clear of PyTorch and timm, whose import takes each of them seven seconds.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.data import DataContext, DataIterator, Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.train import DataConfig

from pipeline.config import InputConfig
from pipeline.records import Chunk, InputShard
from pipeline.shards import read_chunks, require_unchanged
from pipeline.training_config import TrainConfig
from pipeline.training_events import post_rejection
from pipeline.training_run import TrainingRun
from pipeline.training_seeds import make_generator
from pipeline.training_survey import find_unusable_reason, group_evenly
from pipeline.vocabulary import Vocabulary

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
MAX_READ_TASKS = 1000
DECODE_BATCH = 16


class SampleSource(Datasource):
    """The usable samples of some shards, in a new order in every execution.

    The n-th execution of the dataset is epoch `first_epoch + n`: Ray counts them in its data context, which it
    hands to `get_read_tasks`.
    """

    def __init__(
        self,
        shards: Sequence[InputShard],
        vocabulary: Vocabulary,
        config: TrainConfig,
        *,
        is_training: bool,
        first_epoch: int = 0,
    ) -> None:
        """Read `shards` shuffled when training, in their order otherwise."""
        super().__init__()
        self._shards = tuple(shards)
        self._vocabulary = vocabulary
        self._config = config
        self._is_training = is_training
        self._first_epoch = first_epoch

    @property
    def num_tasks(self) -> int:
        """How many read tasks there are."""
        return min(len(self._shards), MAX_READ_TASKS)

    def get_name(self) -> str:
        """Name the source in Ray's progress and metrics."""
        return "TrainingSamples"

    def estimate_inmemory_data_size(self) -> int | None:
        """Say how much there is to read, in bytes."""
        return sum(shard.size_bytes for shard in self._shards)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """Deal the shards of this epoch to tasks."""
        epoch = self._first_epoch + (data_context._execution_idx if data_context is not None else 0)
        shards = self._shards
        if self._is_training:
            order = make_generator(self._config.rng_seed, epoch, "shards").permutation(len(shards))
            shards = tuple(shards[index] for index in order)
        window = self._config.shuffle_window if self._is_training else 1
        return [
            ReadTask(
                partial(
                    read_epoch,
                    group,
                    self._vocabulary,
                    self._config.inputs,
                    window,
                    self._config.rng_seed,
                    epoch,
                    place,
                ),
                BlockMetadata(
                    num_rows=None,
                    size_bytes=sum(shard.size_bytes for shard in group),
                    input_files=None,
                    exec_stats=None,
                ),
                schema=SAMPLE_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for place, group in enumerate(group_evenly(shards, MAX_READ_TASKS))
        ]


def read_epoch(
    shards: Sequence[InputShard],
    vocabulary: Vocabulary,
    inputs: InputConfig,
    window: int,
    rng_seed: int,
    epoch: int,
    place: int,
) -> Iterator[pa.Table]:
    """Read the usable samples of shards as tables of a few rows, shuffled within a window of so many samples.

    Raises:
        ShardError: A shard cannot be read.
    """
    rows = iterate_usable(shards, vocabulary, inputs, epoch)
    generator = make_generator(rng_seed, epoch, f"window/{place}")
    batch: list[dict[str, Any]] = []
    for row in shuffle_in_window(rows, window, generator):
        batch.append(row)
        if len(batch) == ROWS_PER_YIELD:
            yield pa.Table.from_pylist(batch, schema=SAMPLE_SCHEMA)
            batch = []
    # Also without any row: Ray gives a block without columns to the next step otherwise.
    yield pa.Table.from_pylist(batch, schema=SAMPLE_SCHEMA)


def iterate_usable(
    shards: Sequence[InputShard], vocabulary: Vocabulary, inputs: InputConfig, epoch: int
) -> Iterator[dict[str, Any]]:
    """Give the rows of the samples that can be trained on, in the shards' order."""
    for shard in shards:
        require_unchanged(shard)
        for piece in read_chunks(shard, inputs):
            for sample in piece.samples if isinstance(piece, Chunk) else ():
                class_ids = vocabulary.match(sample.tags, sample.class_numbers).class_ids
                if not find_unusable_reason(sample, class_ids):
                    yield {"key": sample.key, "epoch": epoch, "image": sample.image, "class_ids": list(class_ids)}


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
    batch: dict[str, np.ndarray], config: TrainConfig, num_classes: int, is_training: bool, box: ActorHandle
) -> dict[str, np.ndarray]:
    """Turn encoded samples into training images; see `pipeline.augmentation`, imported where it is needed only."""
    from pipeline.augmentation import augment_samples

    return augment_samples(batch, config, num_classes, is_training, partial(post_rejection, box))


def make_dataset(run: TrainingRun, split: str, box: ActorHandle) -> Dataset:
    """Chain the steps for one split, from the epoch on that comes next: shards -> samples -> augmented images.

    Ray Train calls this anew whenever it replaces lost workers. Images that cannot be decoded are reported to `box`.
    """
    context = DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    is_training = split == "train"
    source = SampleSource(
        run.train_shards if is_training else run.validation_shards,
        run.vocabulary,
        run.config,
        is_training=is_training,
        first_epoch=run.read_next_epoch(),
    )
    # Reading and augmenting stay separate steps (they ask for different resources): a few shards are
    # then no limit to the number of images that are decoded at the same time.
    samples = ray.data.read_datasource(source, num_cpus=0.25, override_num_blocks=source.num_tasks)
    return samples.map_batches(
        augment_batch,
        batch_size=DECODE_BATCH,
        batch_format="numpy",
        fn_kwargs={
            "config": run.config,
            "num_classes": len(run.vocabulary.classes),
            "is_training": is_training,
            "box": box,
        },
        num_cpus=1,
    )


class SplitForTraining(DataConfig):
    """Training images in equal shares, so that all workers take the same steps; validation images each exactly once."""

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: list[ActorHandle] | None,
        worker_node_ids: list[str] | None,
        **kwargs: Any,
    ) -> list[dict[str, DataIterator]]:
        """Split the datasets; Ray Train calls this once per dataset."""
        shares = [dict[str, DataIterator]() for _ in range(world_size)]
        for name, dataset in datasets.items():
            splits = dataset.streaming_split(world_size, equal=name == "train", locality_hints=worker_node_ids)
            for share, split in zip(shares, splits, strict=True):
                share[name] = split
        return shares
