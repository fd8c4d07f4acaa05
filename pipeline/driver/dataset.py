"""The Ray dataset of a wave: read tasks, then workers."""

from collections.abc import Sequence

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.commit.plan import ShardWork
from pipeline.driver.steps import Steps, Tasks
from pipeline.workers.attempts import Attempts
from pipeline.workers.planned_source import PlannedSource
from pipeline.workers.pulse import Reporting

READ_CPUS = 0.5


def _set_up_context() -> None:
    context = DataContext.get_current()
    # A block closes at this size, but never inside a row, so every chunk is its own block. A lost actor then costs a
    # few chunks and not a few hundred megabytes.
    context.target_max_block_size = 1
    context.execution_options.preserve_order = False
    # Waiting for a GPU is not an error on a cluster that scales.
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False


def build_dataset(
    steps: Steps, groups: Sequence[Sequence[ShardWork]], reporting: Reporting, attempts: Attempts
) -> Dataset:
    """Chain the steps as a dataset: read tasks, then workers.

    A worker commits its rows before it takes the next chunk. A crash therefore loses at most the chunks in flight,
    however slow the store is, and masks stay in their process. While one call waits for the store, another computes.
    """
    _set_up_context()
    parts = [steps.plan_read(group, reporting, attempts) for group in groups]
    # Ray Data retries a read task that dies without limit; `guarded_reads` sets the limit.
    source = PlannedSource(steps.name, parts, steps.read_schema)
    rows = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=sum(map(len, groups)))
    workers, shared = steps.workers, {"reporting": reporting, "attempts": attempts}
    if isinstance(workers, Tasks):
        return rows.map_batches(
            workers.function,
            fn_kwargs={**workers.arguments, **shared},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=workers.num_cpus,
        )
    return rows.map_batches(
        workers.make,
        fn_constructor_kwargs={**workers.arguments, **shared},
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers.num_actors,
            max_concurrent_calls_per_actor=workers.calls_per_actor,
            enable_true_multi_threading=True,
        ),
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus or None,
    )
