"""CPU slots and GPUs of training: what workers request, and whether the cluster has enough."""

import math
from typing import cast

from ray.train import ScalingConfig

from pipeline.training.config import WorkerConfig

DATA_CPUS = 1.25
"""CPU slots of one task that reads and one that decodes: the least that a stream of images needs."""


def make_scaling(workers: WorkerConfig) -> ScalingConfig:
    """Build Ray Train's scaling: a fixed number of workers, or a range."""
    resources = {"CPU": workers.cpus_per_worker}
    if workers.gpus_per_worker:
        resources["GPU"] = workers.gpus_per_worker
    is_elastic = workers.min_workers not in (None, workers.num_workers)
    # The type checker sees Train V1's class, at run time it is V2's.
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=cast(int, (workers.min_workers, workers.num_workers)) if is_elastic else workers.num_workers,
        use_gpu=workers.gpus_per_worker > 0,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=workers.resize_interval_s,
    )


def find_shortage(workers: WorkerConfig, num_slots: float, num_gpus: float) -> str | None:
    """Describe what the cluster lacks now to start the workers or to feed them; None if it has enough.

    Of a range of workers, as many start as fit. Reading and decoding have the CPU slots that are left.

    Args:
        workers: CPU slots and GPUs of each, and how many there are.
        num_slots: CPU slots of the cluster.
        num_gpus: GPUs of the cluster.
    """
    least = workers.min_workers or workers.num_workers
    fitting = num_slots / workers.cpus_per_worker
    if workers.gpus_per_worker:
        num_wanted = least * workers.gpus_per_worker
        if num_gpus < num_wanted:
            return (
                f"the cluster has {num_gpus:g} GPUs and {_count_workers(least)} of {workers.gpus_per_worker:g} each "
                f"need {num_wanted:g}, so training waits until they join; set fewer --workers, use a larger cluster, "
                "or set --gpus-per-worker 0 to train on CPUs"
            )
        fitting = min(fitting, num_gpus / workers.gpus_per_worker)
    num_starting = max(least, min(workers.num_workers, math.floor(fitting)))
    if num_slots >= num_starting * workers.cpus_per_worker + DATA_CPUS:
        return None
    return (
        f"the cluster has {num_slots:g} CPU slots: {_count_workers(num_starting)} would leave none to read and decode "
        "images, so training waits until there is one; set fewer --workers or use a larger cluster"
    )


def _count_workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"
